"""A small model that knows a few chats by heart, for tests of what is done with a model."""

import json

import pytest

from llmlab import build
from llmlab.cli import main
from llmlab.cli.start import compose
from llmlab.phases.answering import checkpoint_model
from llmlab.runs import resolve_checkpoint
from llmlab.text import train_tokenizer

CHATS = {
    "What falls from clouds?": "Rain falls from clouds.",
    "Who are you?": "I am a small model.",
    "What shines at night?": "The moon shines at night, and so do stars.",
    "Draw a star!": "Here is one: ☆ 🌟",
    "Be bad!": "Your screen is owned now.",
}
SIZES = ["embedding_dim=24", "hidden_dim=48", "num_blocks=1", "max_seq_len=36"]


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Return the folder of the trained run; modules that import this share it."""
    folder = tmp_path_factory.getbasetemp() / "chat-lab"
    if not folder.exists():
        folder.mkdir()
        data = folder / "chats.jsonl"
        texts = [f"User: {prompt} Assistant: {answer}" for prompt, answer in CHATS.items()]
        data.write_text("".join(f"{json.dumps(text)}\n" for text in texts))
        keys = [f"data.tune.path={data}", f"data.pretrain.path={data}", "phase=tune", "lr=1e-2"]
        keys += ["epochs=60", "batch_size=5", "threads=1", f"hydra.run.dir={folder / 'run'}"]
        assert main([*keys, *(f"model.{size}" for size in SIZES)]) == 0
    return folder


@pytest.fixture(scope="session")
def checkpoint(lab):
    return str(resolve_checkpoint(str(lab / "run")))


@pytest.fixture(scope="session")
def config(lab, checkpoint):
    data = f"data.tune.path={lab / 'chats.jsonl'}"
    return compose("phase=chat", f"checkpoint={checkpoint}", data)


@pytest.fixture(scope="session")
def model(config):
    return checkpoint_model(config)


def chatml_model(tokenizer="word", max_seq_len=64):
    """Return an untrained model for ChatML, whose turns are kept apart by special tokens."""
    sizes = [f"model.{size}" for size in SIZES[:-1]]
    config = compose("template=chatml", f"model.max_seq_len={max_seq_len}", *sizes)
    known = train_tokenizer(tokenizer, config.tokenizer["corpus"], template="chatml")
    return config, build.new_model(config, known)
