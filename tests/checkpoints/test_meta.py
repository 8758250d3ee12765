"""What a checkpoint's meta says, if somebody else wrote it: one line and exit code 4, at once."""

import copy
import time
from pathlib import Path

import pytest
from forgery import forge
from small_run import KEYS, finished_run, small_lab  # noqa: F401

from llmlab.checkpoints import load, peek, save
from llmlab.checkpoints.meta import RULES
from llmlab.errors import CheckpointError
from llmlab.train.progress import Progress

FIXTURE = Path(__file__).parents[1] / "fixtures/checkpoint-format-1.npz"
FILE = "run/checkpoints/step-000002.npz"
MANY = 2**31


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"x": value}
    return value


def put(value, *keys):
    """Return a change of the meta at a place."""

    def change(meta):
        *way, last = keys
        for key in way:
            meta = meta[key]
        meta[last] = value

    return change


def without(*keys):
    def change(meta):
        *way, last = keys
        for key in way:
            meta = meta[key]
        del meta[last]

    return change


WRONG = {
    **{f"step {value!r}": put(value, "step") for value in ("x", 2.5, -1, None, True, 2**70, [])},
    **{f"updates {value!r}": put(value, "updates") for value in (None, 1.0, -3, "2", 3)},
    **{f"hashes {value!r}": put(value, "hashes") for value in (None, [], "x", {"data": 3})},
    **{f"config {value!r}": put(value, "config") for value in ([], None, "x", 3)},
    **{f"tokenizer {value!r}": put(value, "tokenizer") for value in ([], None, {}, "word")},
    **{f"stage {value!r}": put(value, "stage") for value in (None, 3, [], {})},
    **{f"loss_sum {value!r}": put(value, "loss_sum") for value in (None, "1", [])},
    **{f"loss_tokens {value!r}": put(value, "loss_tokens") for value in (-1, 0.5, "1")},
    **{f"loss_epoch {value!r}": put(value, "loss_epoch") for value in (-1, [], "1")},
    "cursor of other keys": put({"epoch": 0, "place": 3}, "cursor"),
    "cursor of one key": put({"epoch": 0}, "cursor"),
    "cursor of more keys": put({"epoch": 0, "index": 0, "x": 1}, "cursor"),
    **{
        f"cursor {value!r}": put({"epoch": 0, "index": value}, "cursor")
        for value in (-1, 0.5, None, "1", [])
    },
    **{f"cursor as {value!r}": put(value, "cursor") for value in (None, [], 3)},
    **{f"metrics {value!r}": put(value, "metrics_offset") for value in (-1, 1.5, "0", None)},
    **{f"tokens {value!r}": put(value, "tokens") for value in (-1, 1.5, None)},
    **{f"best {value!r}": put(value, "best") for value in ("1", [], float("nan"), float("inf"))},
    **{f"best step {value!r}": put(value, "best_step") for value in (-1, "1", 3)},
    **{f"patience {value!r}": put(value, "patience") for value in (-1, "1", 1.5)},
    **{f"stale {value!r}": put(value, "stale") for value in (-1, None)},
    "NaN": put(float("nan"), "config", "lr"),
    "minus infinity": put([float("-inf")], "more"),
    "deep": put(nested(200), "more"),
    "very deep": put(nested(900), "config", "x"),
    "model a list": put([], "config", "model"),
    "data a list": put([], "config", "data"),
    "data of texts": put({"pretrain": "x"}, "config", "data"),
}
# These are sound as meta, but there is no such model.
IMPOSSIBLE = {
    "no model": without("config", "model"),
    "no stack": without("config", "model", "stack"),
    "no size": without("config", "model", "embedding_dim"),
    "no template": without("config", "template"),
    "no tokenizer": without("tokenizer"),
    "a size of text": put("8", "config", "model", "embedding_dim"),
    "a size of nothing": put(0, "config", "model", "max_seq_len"),
    "a huge size": put(MANY, "config", "model", "embedding_dim"),
    "a huge context": put(10**12, "config", "model", "max_seq_len"),
    "an unknown template": put("nothing", "config", "template"),
    "an unknown tokenizer": put({"type": "nothing"}, "tokenizer"),
    "a stack of nothing": put([], "config", "model", "stack"),
    "a stack of a number": put(3, "config", "model", "stack"),
    "repeats": put(MANY, "config", "model", "stack", "tokens", "repeat"),
    "many experts": put(
        {"type": "mixture_of_experts", "hidden_dim": 8, "num_experts": MANY},
        *("config", "model", "stack", "tokens"),
    ),
    "repeats inside repeats": put(
        {
            "type": "block",
            "repeat": 1000,
            "layers": {
                "inner": {
                    "type": "block",
                    "repeat": 1000,
                    "layers": {"drop": {"type": "dropout", "rate": 0.1, "repeat": 1000}},
                }
            },
        },
        *("config", "model", "stack", "tokens"),
    ),
    "another size": put(16, "config", "model", "embedding_dim"),
}
RESUMED_TOO = ("no model", "a huge size", "repeats", "repeats inside repeats")
READERS = [
    ["phase=generate", "prompt=sun"],
    ["phase=evaluate", "data.pretrain.path=good.txt"],
    ["phase=score", "prompt=sun"],
    ["phase=export", "target=out"],
    ["phase=pretrain", *KEYS[1:4], "steps=1"],
]


@pytest.fixture
def forged(lab):
    """Return a function that writes `forged.npz` with a changed meta and a right seal."""
    state = load(FILE)

    def make(change, name="forged.npz"):
        meta = copy.deepcopy(state.meta)
        change(meta)
        forge(name, state.arrays, lambda manifest: manifest.update(meta=meta))

    return make


def refused(answer, code=4):
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    (line,) = [line for line in answer.problems if line.startswith("error:")]
    assert len(line) < 1000
    return line


@pytest.mark.every_day(37)
@pytest.mark.parametrize("wrong", WRONG)
def test_meta_that_cannot_be_is_refused(tmp_path, wrong):
    state = load(FIXTURE)
    meta = {**state.meta, "step": 2, "updates": 2, "best_step": None, "hashes": {}}
    forge(tmp_path / "sound.npz", state.arrays, lambda manifest: manifest.update(meta=meta))
    assert load(tmp_path / "sound.npz").meta == peek(tmp_path / "sound.npz") == meta
    WRONG[wrong](meta)
    forge(tmp_path / "forged.npz", state.arrays, lambda manifest: manifest.update(meta=meta))
    for read in (load, peek):
        with pytest.raises(CheckpointError, match=r"forged\.npz: unusable checkpoint: its m"):
            read(tmp_path / "forged.npz")


@pytest.mark.every_day(1)
@pytest.mark.parametrize("argv", READERS, ids=lambda argv: argv[0])
def test_every_phase_refuses(forged, lab, argv):
    before = lab.tree()
    forged(put(2.5, "step"))
    assert "step=2.5, expected a whole number from 0" in refused(
        lab(*argv, "checkpoint=forged.npz")
    )
    assert not (lab.folder / "out").exists() and before.keys() <= lab.tree().keys()


@pytest.mark.slow
def test_verify_and_resume_of_a_run_tell_it(forged, lab):
    forged(put(None, "hashes"), FILE)
    assert "its meta has hashes=None" in refused(lab("phase=verify", "checkpoint=run"))
    answer = lab("resume=run", "steps=3")
    assert answer.code == 0 and "DAMAGED CHECKPOINT" in answer.err  # the one before is sound
    forged(put(None, "hashes"), "run/checkpoints/step-000003.npz")
    for path in (lab.folder / "run" / "checkpoints").glob("step-00000[012].npz"):
        path.unlink()
    refused(lab("resume=run", "steps=4"))


@pytest.mark.every_day(3)
@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_a_model_that_cannot_be_is_refused_at_once(forged, lab, wrong):
    forged(IMPOSSIBLE[wrong])
    began = time.process_time()
    assert "forged.npz" in refused(lab("checkpoint=forged.npz", *READERS[0]))
    if wrong in RESUMED_TOO:
        refused(lab("resume=forged.npz", "steps=3"))
    assert time.process_time() - began < 20  # built, it would take minutes and all memory


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    "where", [put("16", "config", "batch_size"), put(0, "config", "batch_size")]
)
def test_a_configuration_that_cannot_be_continued(forged, lab, where):
    forged(where)
    assert "batch_size=" in refused(lab("resume=forged.npz", "steps=3"))
    # What was typed is the user's own affair.
    assert "lr=x" in refused(lab("resume=forged.npz", "lr=x", "batch_size=2"), 2)


def test_paths_of_a_checkpoint_are_never_used(forged, lab):
    """Neither read, nor made, nor written."""
    (lab.folder / "secret.txt").write_text("a secret\n")

    def hostile(meta):
        secret = str(lab.folder / "secret.txt")
        meta["config"]["data"]["pretrain"] |= {"path": secret, "cache": str(lab.folder / "made")}
        meta["config"]["tokenizer"]["corpus"] = [secret]
        meta["config"] |= {"target": str(lab.folder / "out"), "checkpoint": secret}
        meta["config"] |= {"prompt": "a secret", "resume": secret}

    forged(hostile)
    answer = lab("phase=evaluate", "checkpoint=forged.npz", "data.pretrain.path=good.txt")
    assert answer.code == 0 and "27" not in answer.err, answer.err
    answer = lab("resume=forged.npz", "steps=3", "data.pretrain.path=good.txt")
    assert answer.code == 0, answer.err
    (new,) = (lab.folder / "runs").glob("*/*/run.json")
    for folder in ("made", "out"):
        assert not (lab.folder / folder).exists()
    for path in (new, new.with_name("config.yaml")):
        assert "secret" not in path.read_text()


@pytest.mark.every_day(1)
@pytest.mark.parametrize("path", ["secret.json", "/dev/zero"])
def test_a_tokenizer_of_a_checkpoint_reads_no_file(forged, lab, path):
    (lab.folder / "secret.json").write_text('{"model": {}}')
    forged(put({"type": "pretrained", "path": path}, "tokenizer"))
    assert "missing" in refused(lab("phase=generate", "prompt=x", "checkpoint=forged.npz"))


@pytest.mark.slow
def test_a_running_mean_is_checked_like_the_parameters(forged, lab):
    state = load(FILE)
    arrays = state.arrays | {
        name.replace("params/", "ema/"): array.copy()
        for name, array in state.arrays.items()
        if name.startswith("params/")
    }
    name = next(name for name in arrays if name.startswith("ema/"))
    forge("mean.npz", arrays, lambda manifest: manifest.update(meta=state.meta))
    assert lab("phase=generate", "prompt=sun", "checkpoint=mean.npz").code == 0
    arrays[name].reshape(-1)[0] = float("nan")
    forge("mean.npz", arrays, lambda manifest: manifest.update(meta=state.meta))
    for argv in ["phase=generate", "prompt=sun"], ["phase=verify"]:
        assert f"{name!r} holds NaN" in refused(lab(*argv, "checkpoint=mean.npz"))


def test_nothing_is_saved_that_no_reader_would_take(tmp_path):
    with pytest.raises(ValueError, match=r"not saved: its meta has step=2\.5"):
        save(tmp_path / "a.npz", {}, {"step": 2.5})
    assert not list(tmp_path.iterdir())


def test_every_field_of_the_progress_has_a_rule():
    assert set(Progress().to_dict()) <= set(RULES)
