"""What people get for bad inputs: one table, by the row of the list of bad inputs.

A case passes if the exit code tells the kind, if there is one line for each problem (a table
below it is indented), if the lines hold what they should, and if nothing was lost or left: after
a refusal the folder holds the very bytes that it held before.
"""

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from forgery import entry, forge
from small_run import GOOD, KEYS, finished_run, small_lab  # noqa: F401

import llmlab
from llmlab.checkpoints import load
from llmlab.runs import resolve_checkpoint
from llmlab.runs.lock import RunLock
from llmlab.train.trainer import Trainer

#: Rows whose whole test is elsewhere, since they need processes, terminals or a plug-in.
ELSEWHERE = {
    8: "layers/test_architectures",
    17: "text/test_windows",
    19: "text/test_windows",
    20: "text/test_datasets",
    24: "train/test_diagnose",
    25: "train/test_diagnose",
    29: "generate/test_samplers",
    30: "generate/test_samplers",
    35: "cli/test_cli",
    36: "phases/test_generate",
    37: "phases/test_chat",
    46: "ground/test_signals",
}

ASK = ["phase=generate", "checkpoint=run", "max_new_tokens=3"]
TRAIN = [*KEYS, "steps=2"]
MORE = ["resume=run", "steps=3"]
CHECKPOINT = "run/checkpoints/step-000002.npz"


@dataclass
class Case:
    """A command line after `prepare`, and what must come of it.

    `says` is what each line of stderr holds, in order, for a refusal; otherwise what stderr and
    stdout hold somewhere. `keeps` is False where a run may go on, and write.
    """

    row: int
    name: str
    argv: list
    code: int
    says: list
    prepare: Callable = lambda here, patch: None
    table: bool = False
    keeps: bool = True
    out: str | None = None


def text(content, name="bad.txt"):
    data = content if isinstance(content, bytes) else content.encode()
    return lambda here, patch: (here.folder / name).write_bytes(data)


def data(name="bad.txt", *more):
    return [*TRAIN, f"data.pretrain.path={name}", *more]


def changed(change, name=CHECKPOINT):
    """Return a preparation that replaces the bytes of a file."""

    def prepare(here, patch):
        path = here.folder / name
        path.write_bytes(change(path.read_bytes()))

    return prepare


def stdin(content):
    def prepare(here, patch):
        patch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8", "surrogateescape")
        )

    return prepare


# what a case needs before it


def own_yaml(content):
    def prepare(here, patch):
        folder = here.folder / "mine" / "experiment"
        folder.mkdir(parents=True)
        (folder / "odd.yaml").write_text(f"# @package _global_\n{content}")

    return prepare


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


def interrupted_stdin(here, patch):
    class Terminal(io.StringIO):
        def readline(self, *size):
            raise KeyboardInterrupt

    patch.setattr(sys, "stdin", Terminal())


def other_format(here, patch):
    state = load(here.folder / CHECKPOINT)
    forge(here.folder / "new.npz", state.arrays, lambda manifest: manifest.update(format=99))


def not_finite(here, patch):
    state = load(here.folder / CHECKPOINT)
    name = next(name for name in state.arrays if name.startswith("params/"))
    state.arrays[name].flat[0] = np.nan
    forge(here.folder / "nan.npz", state.arrays, lambda manifest: manifest.update(meta=state.meta))


def pickled(here, patch):
    np.savez(here.folder / "bad.npz", w=np.array([{"a": 1}]))


def forged(*given, **options):
    return lambda here, patch: forge(
        here.folder / "bad.npz", {"w": np.arange(4.0)}, *given, **options
    )


def twins(here, patch):
    with zipfile.ZipFile(here.folder / "bad.npz", "w") as archive, pytest.warns(UserWarning):
        for _ in range(2):
            archive.writestr("w.npy", b"")


def link_at_target(here, patch):
    """Let links lie where the next checkpoint and the metrics are to be written."""
    (here.folder / "victim").write_text("precious")
    os.symlink(here.folder / "victim", here.folder / "run/checkpoints/step-000003.npz")


def link_at_metrics(here, patch):
    (here.folder / "run/metrics.jsonl").rename(here.folder / "victim")
    os.symlink(here.folder / "victim", here.folder / "run/metrics.jsonl")


def failing_sync(here, patch):
    def fsync(handle):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    patch.setattr(os, "fsync", fsync)


def no_memory(here, patch):
    def step(self, batches):
        raise MemoryError

    patch.setattr(Trainer, "step", step)


def never_finite(here, patch):
    gradients = Trainer._gradients

    def broken(self, batches):
        _, norm, tokens = gradients(self, batches)
        return float("nan"), norm, tokens

    patch.setattr(Trainer, "_gradients", broken)


def somebody_at_work(here, patch):
    return RunLock(here.folder / "run" / "lock").release


WRONG = ["epochs=64.5", "seed=true", "batch_size=abc", "stages=4", "model.stack=5", "lr=nan"]
WRONG += ["clip_norm=1e400", "accumulate=0", "keep=-1", "model.dropout=1", "threads=1e30"]
WRONG += ["optimizer.beta1=inf"]

CASES = [
    Case(1, "typo", [*TRAIN, "model.num_block=3"], 2, ["did you mean 'model.num_blocks'?"]),
    Case(1, "another-programs-name", [*TRAIN, "n_layer=3"], 2, ["'model.num_blocks'?"]),
    Case(1, "no-equals-sign", [*TRAIN, "lr 5e-4"], 2, ["expected key=value"]),
    Case(2, "added-key", [*TRAIN, "+model.x=1"], 2, ["model.x=1: unknown key"]),
    Case(2, "added-argument", [*TRAIN, "optimizer.beta3=1"], 2, ["(did you mean 'beta2'?)"]),
    Case(
        3,
        "types-and-ranges",
        [*KEYS, *WRONG],
        2,
        [
            "lr=nan: must be finite",
            "epochs=64.5: expected a whole number or null; nearest: 64 or 65",
            "batch_size=abc: expected a whole number",
            "accumulate=0: must be at least 1",
            "clip_norm=inf: must be finite",
            "seed=true: expected a whole number",
            "threads=1e+30: must be at least 1 and at most 4,096",
            "keep=-1: must be at least 2",
            "stages=4: expected a mapping",
            "model.dropout=1: must be at least 0 and less than 1",
            "model.stack=5: expected a mapping",
            "optimizer.beta1=inf: must be finite",
        ],
    ),
    Case(3, "number-for-a-group", [*TRAIN, "model=5"], 2, ["model=5: expected the name of a file"]),
    Case(4, "whole-float", [*KEYS, "steps=1e0", "hydra.run.dir=new"], 0, ["loss"], keeps=False),
    Case(
        5, "absurd", [*TRAIN, "model.num_blocks=1e9"], 2, ["must be at least 1 and at most 1,000"]
    ),
    Case(6, "overflow", [*TRAIN, "lr=1e400"], 2, ["lr=inf: must be finite"]),
    Case(5, "refused-when-built", [*TRAIN, "optimizer.beta1=2"], 2, ["beta1=2"]),
    Case(
        7,
        "heads",
        [*TRAIN, "model.embedding_dim=130", "model.num_heads=4"],
        2,
        ["model.embedding_dim=130: must be divisible by model.num_heads=4; nearest: embedding_dim"],
    ),
    Case(
        9, "phase", ["phase=tuen"], 2, ["phase=tuen: unknown phase (did you mean 'tune'?); known"]
    ),
    Case(9, "experiment", ["experiment=x"], 2, ["experiment=x: unknown experiment; known: "]),
    Case(9, "optimizer", [*TRAIN, "optimizer.type=adm"], 2, ["(did you mean 'adam'?); known: "]),
    Case(
        10,
        "missing",
        [*KEYS, "lr=???", "clip_norm=${nothing}", "data.pretrain.path=null"],
        2,
        ["lr: missing", "clip_norm: Interpolation key 'nothing'", "data.pretrain.path: null"],
    ),
    Case(
        10,
        "twice-in-yaml",
        ["--config-dir", "mine", "experiment=odd"],
        2,
        ["odd.yaml:4: found duplicate key lr"],
        own_yaml("lr: 1\nseed: 1\nlr: 2\n"),
    ),
    Case(
        10,
        "alias-bomb",
        ["--config-dir", "mine", "experiment=odd"],
        2,
        ["odd.yaml: its aliases expand to"],
        own_yaml(BOMB),
    ),
    Case(
        11,
        "memory",
        [*TRAIN, "model.embedding_dim=65536", "model.hidden_dim=1e6", "model.num_blocks=100"],
        5,
        ["GiB are free: lower batch_size=8 or the sizes of the model"],
    ),
    Case(12, "no-file", data("nothing.txt"), 3, ["/lab/nothing.txt: no such file"]),
    Case(12, "folder", data("run/report"), 3, ["/lab/run/report: the folder holds no .txt"]),
    Case(13, "empty", data(), 3, ["/lab/bad.txt: no text in it (0 bytes, 0 entries"], text("")),
    Case(13, "blank", data(), 3, ["(5 bytes, 2 entries, all blank)"], text(" \n\t \n")),
    Case(
        13,
        "no-validation",
        data("good.txt", "data.pretrain.val_fraction=0.01"),
        3,
        ["val_fraction=0.01 of 27 texts leaves 27 for training and 0 for validation"],
    ),
    Case(
        14,
        "utf-8",
        data(),
        3,
        [
            "bad.txt:2: byte 8 (0xff) is not UTF-8; save the file as UTF-8, or set "
            "data.pretrain.invalid_utf8=replace"
        ],
        text(b"a b c .\n\xff x\n"),
    ),
    Case(
        14,
        "utf-8-of-tuning",
        ["phase=tune", "data.tune.path=bad.jsonl", "steps=2"],
        3,
        ["starts from random", "or set data.tune.invalid_utf8=replace"],
        text(b'"User: a Assistant: \xff"\n', "bad.jsonl"),
    ),
    Case(
        14,
        "utf-8-replaced",
        data("bad.txt", "data.pretrain.invalid_utf8=replace"),
        0,
        ["1 invalid UTF-8 sequences replaced"],
        text(b"a b c .\n\xff x\n"),
        keeps=False,
    ),
    Case(15, "bom", data(), 0, ["byte order mark dropped"], text(f"\ufeff{GOOD}"), keeps=False),
    Case(
        16,
        "crlf-nul",
        data(),
        0,
        ["carriage returns read as line ends", "control characters"],
        text("a b\0 c .\r\nd e f .\r\n"),
        keeps=False,
    ),
    Case(
        18,
        "broken-json",
        data("bad.jsonl"),
        3,
        ["bad.jsonl:2: not valid JSON"],
        text('"a b c"\n{"text": \n', "bad.jsonl"),
    ),
    Case(
        18,
        "wrong-shape",
        data("bad.json"),
        3,
        ["bad.json:1: expected an array of strings or chats (one object per line"],
        text('{"a": 1}', "bad.json"),
    ),
    Case(18, "nan", data("bad.json"), 3, ["found NaN"], text('["a", NaN]', "bad.json")),
    Case(18, "surrogate", data("bad.json"), 3, ["surrogate"], text('["\\ud800 b"]', "bad.json")),
    Case(18, "deep", data("bad.jsonl"), 3, ["nested too deeply"], text("[" * 10**5, "bad.jsonl")),
    Case(
        21,
        "long-line",
        data(),
        0,
        ["texts over max_seq_len, split: 1"],
        text("a word " * 200 + "\n" + GOOD),
        keeps=False,
    ),
    Case(
        22,
        "changed-data",
        [*MORE, "data.pretrain.path=good.txt"],
        4,
        ["data changed since this checkpoint (data was "],
        changed(lambda old: old[24:], "good.txt"),
    ),
    Case(
        23,
        "never-finite",
        ["resume=run", "steps=99", "max_bad_steps=3"],
        1,
        [
            "step 3 skipped: loss nan",
            "first layer whose output is not finite",
            "error: loss or gradient was not finite in 3 steps in a row, the last at step 5",
            "continue with: python -m llmlab resume=run",
        ],
        never_finite,
        keeps=False,
    ),
    Case(26, "empty-prompt", [*ASK, "prompt="], 2, ["prompt: empty"]),
    Case(26, "no-prompt", ASK, 2, ["prompt: missing"]),
    Case(27, "long-prompt", [*ASK, f"prompt={'the sun ' * 50}"], 0, ["only the last 9 are used"]),
    Case(28, "unknown-words", [*ASK, "prompt=the xyzzy"], 0, ["vocabulary: xyzzy"]),
    Case(
        31,
        "no-tokens",
        ["phase=generate", "checkpoint=run", "prompt=sun", "max_new_tokens=0"],
        0,
        [],
        out="",
    ),
    Case(32, "piped", ["phase=chat", "checkpoint=run"], 0, [], stdin(b"the sun\n\nthe rain\n")),
    Case(32, "end-of-file", ["phase=chat", "checkpoint=run"], 0, [], stdin(b""), out=""),
    Case(33, "ctrl-c", ["phase=chat", "checkpoint=run"], 130, ["left the chat"], interrupted_stdin),
    Case(34, "stdin", ["phase=chat", "checkpoint=run"], 0, [], stdin(b"the \xff sun\n")),
    Case(34, "prompt", [*ASK, "prompt=the \udcff sun"], 0, ["vocabulary: \ufffd"]),
    *(
        Case(
            38,
            name,
            [*ASK, "prompt=sun", f"checkpoint={CHECKPOINT}"],
            4,
            [f"{CHECKPOINT}: unusable"],
            changed(how),
        )
        for name, how in {
            "truncated": lambda old: old[:-50],
            "flipped": lambda old: old[:5000] + bytes([old[5000] ^ 1]) + old[5001:],
            "zeroed": lambda old: old[:4096] + bytes(4096) + old[8192:],
            "empty": lambda old: b"",
            "no-npz": lambda old: b"hello",
        }.items()
    ),
    Case(38, "no-file", [*ASK, "prompt=sun", "checkpoint=x.npz"], 4, ["x.npz: there is no"]),
    Case(
        38,
        "falls-back",
        MORE,
        0,
        ["DAMAGED CHECKPOINT: ", "falling back to "],
        changed(lambda old: old[:-50]),
        keeps=False,
    ),
    Case(
        39,
        "format",
        [*ASK, "prompt=sun", "checkpoint=new.npz"],
        4,
        ["a newer llmlab"],
        other_format,
    ),
    Case(
        39,
        "architecture",
        [*MORE, "model.hidden_dim=9", "model.embedding_dim=16"],
        4,
        ["come with the checkpoint"],
        table=True,
    ),
    Case(39, "vocabulary", [*MORE, "tokenizer.type=char"], 4, ["checkpoint"], table=True),
    Case(39, "optimizer", [*MORE, "optimizer=sgd"], 4, ["doesn't fit"], table=True),
    Case(
        40, "pickle", [*ASK, "prompt=sun", "checkpoint=bad.npz"], 4, ["bad.npz: unusable"], pickled
    ),
    *(
        Case(
            40,
            name,
            [*ASK, "prompt=sun", "checkpoint=bad.npz"],
            4,
            ["bad.npz: unusable checkpoint"],
            how,
        )
        for name, how in {
            "huge": forged(entry(shape=[10**12])),
            "bomb": forged(compression=zipfile.ZIP_DEFLATED),
            "stranger": forged(members={"../code.py": b"print()"}),
            "twins": twins,
        }.items()
    ),
    Case(41, "link-at-target", MORE, 0, [], link_at_target, keeps=False),
    Case(
        41,
        "link-at-metrics",
        MORE,
        5,
        ["metrics.jsonl: cannot be written", "continue with"],
        link_at_metrics,
        keeps=False,
    ),
    Case(42, "nan", [*ASK, "prompt=sun", "checkpoint=nan.npz"], 4, ["holds NaN"], not_finite),
    Case(43, "no-folder", [*TRAIN, "hydra.run.dir=good.txt/x"], 5, ["good.txt/x"]),
    Case(
        43,
        "fsync",
        MORE,
        5,
        ["Input/output error; what was saved before is intact: check the disk"],
        failing_sync,
    ),
    Case(44, "two-at-work", MORE, 5, ["is working on this run"], somebody_at_work),
    Case(
        47,
        "no-memory",
        MORE,
        5,
        ["out of memory: lower batch_size", "continue with: python -m llmlab resume=run"],
        no_memory,
        keeps=False,
    ),
]


def table():
    """Yield the cases; after a row's first, they are left to the long form of the tests."""
    seen = set()
    for case in CASES:
        marks = [pytest.mark.slow] if case.row in seen else []
        seen.add(case.row)
        yield pytest.param(case, id=f"row-{case.row:02}-{case.name}", marks=marks)


@pytest.mark.every_day(7)
@pytest.mark.parametrize("case", list(table()))
def test_bad_input(lab, monkeypatch, case):
    release = case.prepare(lab, monkeypatch)
    before = lab.tree()
    answer = lab(*case.argv)
    monkeypatch.undo()
    os.chdir(lab.folder)
    if callable(release):
        release()
    assert answer.code == case.code, answer.err
    assert "Traceback" not in answer.err
    if case.code:
        for line, wanted in zip(answer.problems, case.says, strict=True):
            assert wanted in line, answer.err
            assert len(line) < 500
        assert any(line.startswith("  ") for line in answer.err.splitlines()) == case.table
    else:
        for wanted in case.says:
            assert wanted in answer.err, answer.err
    assert case.out is None or answer.out == case.out
    after = lab.tree()
    if case.keeps:
        # A refused resume may say so in the log; nothing else changes.
        assert {**after, "run/log": b""} == {**before, "run/log": b""}
    if case.row == 41:
        assert after["victim"].startswith(before["victim"])
        assert load(lab.folder / CHECKPOINT).meta["step"] == 2


def test_every_row_has_its_test():
    rows = {case.row for case in CASES}
    below = {45, 48}
    assert rows | below | ELSEWHERE.keys() == set(range(1, 49))
    assert rows.isdisjoint(ELSEWHERE)
    for row, name in ELSEWHERE.items():
        assert (Path(__file__).parents[1] / f"{name}.py").is_file(), row


# what needs a process of its own, or two runs


@pytest.mark.slow
def test_row_34_an_ascii_terminal(lab):
    package = str(Path(llmlab.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "llmlab", *ASK[:2], "prompt=the ☀", "max_new_tokens=1"],
        env={**os.environ, "PYTHONPATH": package, "PYTHONIOENCODING": "ascii"},
        cwd=lab.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "not in the model's vocabulary: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_row_45_and_48_a_second_with_two_starts_and_a_clock_that_jumps_back(lab, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form, *rest: "20260101-000000")
    times = iter([2_000_000_000, 1_000_000_000])
    for steps in (1, 2):
        at = next(times)
        monkeypatch.setattr("time.time_ns", lambda at=at: at)
        monkeypatch.setattr("time.time", lambda at=at: at / 1e9)
        assert lab(*KEYS, f"steps={steps}").code == 0
    first, second = (
        json.loads(path.read_text())
        for path in sorted(
            lab.folder.glob("runs/pretrain/*/run.json"),
            key=lambda path: "steps=2" in path.read_text(),
        )
    )
    assert second["order"] > first["order"]
    assert second["seconds"] >= 0
    assert resolve_checkpoint("latest").name == "step-000002.npz"
