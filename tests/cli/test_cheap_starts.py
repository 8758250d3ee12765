"""What the tests spare each start changes nothing of what is composed."""

import json
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from llmlab.cli.start import compose

COMMANDS = [
    ["phase=summary"],
    ["experiment=tiny", "phase=tune", "lr=3e-4", "data.tune.shuffle=false"],
    ["experiment=mixed", "optimizer=lion", "positions=rope", "callbacks.bar=null"],
]
PRINT = """
import json, sys
from llmlab.cli.start import compose
print(json.dumps([compose(*argv).to_dict() for argv in json.loads(sys.argv[1])], default=sorted))
"""


@pytest.mark.slow
def test_a_program_without_it_composes_the_same():
    command = [sys.executable, "-c", PRINT, json.dumps(COMMANDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for _ in range(2):  # the second time from what was kept
        own = [compose(*argv).to_dict() for argv in COMMANDS]
        assert json.loads(done.stdout) == json.loads(json.dumps(own, default=sorted))


def test_a_file_that_changed_is_read_anew(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("x: 1\n")
    first = OmegaConf.load(path)
    first.x = 5  # nobody else's
    assert OmegaConf.load(path).x == OmegaConf.load(str(path)).x == 1
    path.write_text("x: 23\n")
    assert OmegaConf.load(path).x == 23
