"""docs/checkpoint-format.md: its reader reads what the writer writes."""

import re
from pathlib import Path

import numpy as np
import pytest
from small_run import KEYS, finished_run, small_lab  # noqa: F401 - fixtures

from llmlab.checkpoints import format as checkpoint_format
from llmlab.checkpoints import load, save

TEXT = (Path(__file__).parents[2] / "docs" / "checkpoint-format.md").read_text(encoding="utf-8")


def reader():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    return compile(code, "docs/checkpoint-format.md", "exec")


def test_the_reader_in_the_docs_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weight = np.arange(6, dtype="f4").reshape(2, 3)
    arrays = {"params/a.weight": weight, "optimizer/step": np.array(3)}
    save("step-000010.npz", arrays, {"step": 10})
    names = {}
    exec(reader(), names)
    assert names["meta"] == {"step": 10}
    assert list(names["parameters"]) == ["a.weight"]
    assert np.array_equal(names["parameters"]["a.weight"], weight)
    data = bytearray(Path("step-000010.npz").read_bytes())
    data[data.index(weight.tobytes()) + 20] ^= 1
    Path("step-000010.npz").write_bytes(data)
    with pytest.raises(Exception, match=r"CRC|^$"):
        exec(reader(), {})


def test_the_docs_name_all_keys_and_what_resuming_needs(lab):
    path = max(lab.folder.glob("run/checkpoints/*.npz"))
    checkpoint = load(path)
    rows = re.findall(
        r"^\| (`[^|]*) \| (\d?) ?\|", TEXT.split("has these keys in `meta`")[1], re.MULTILINE
    )
    marks = {key: mark for keys, mark in rows for key in re.findall(r"`(\w+)`", keys)}
    assert set(marks) == set(checkpoint.meta)
    needed = {key: value for key, value in checkpoint.meta.items() if marks[key]}
    save("needed.npz", checkpoint.arrays, needed)
    # In a folder of its own, so that nothing but this file is there to go on with.
    assert lab("resume=needed.npz", *KEYS, "steps=3").code == 0
    del needed["updates"]
    save("poor.npz", checkpoint.arrays, needed)
    answer = lab("resume=poor.npz", *KEYS, "steps=3")
    assert answer.code == 4 and "its meta lacks updates, which continuing needs" in answer.err


def test_the_docs_name_format_and_dtypes():
    assert f"describes format {checkpoint_format.FORMAT}," in TEXT
    listed = re.search(r"dtypes `(.*?)`", TEXT, re.DOTALL)
    assert listed is not None and set(listed[1].split()) == checkpoint_format.DTYPES
