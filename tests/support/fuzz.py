"""Inputs that nobody meant, by the thousand: what comes of each must be a result or one refusal.

`python tests/support/fuzz.py --cases 10000 --seed 0` prints what failed, and how often it tried;
`--only data` tries one kind, `--case 4711` one case, with its traceback.
A case fails by an exit code of 1 that is no failed training, by a traceback, by taking longer than
`SECONDS`, or by an exception that isn't llmlab's own. Memory is bounded by `MEMORY`.
"""

import argparse
import contextlib
import gzip
import io
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]
SECONDS = 20
MEMORY = 6 * 2**30  # of address space more than at first: libraries map what they never touch
KINDS = {"command": 10, "yaml": 10, "data": 35, "meta": 20, "archive": 24, "streams": 1}
SIZES = ["embedding_dim=8", "hidden_dim=8", "num_blocks=1", "max_seq_len=12"]
SMALL = ["threads=1", "steps=1", "chat=false", *(f"model.{size}" for size in SIZES)]
TEXT = "the sun sees the tree .\na bird likes a stone .\nthe rain warms the wind .\n" * 3


class Hang(BaseException):
    """A case took too long."""


# what cases are made of

NUMBERS = [0, -1, 1, 2, 3, 7, 1e-3, 2.5, 1e308, 2**31, 2**63, 10**30, float("nan"), float("inf")]
WORDS = ["null", "true", "off", "'", '"', "''", "[]", "[a,b]", "{}", "{a:1}", "[[", "]", "}", "???"]
WORDS += [
    "${seed}",
    "${nope}",
    "${oc.env:HOME}",
    "${",
    "${oc.create:[]}",
    "\\",
    "a b",
    "é☆",
    "\u202e",
]
WORDS += ["\x00", "\x1b[2J", "latest", "best", "run", "good.txt", "nothing", ".", "..", "/dev/null"]
WORDS += ["x" * 5000, "[" * 300, "a,b", "glob(*)", "range(3)", "choice(1,2)", "-1", "1_000", "0x10"]
KEYS = ["lr", "epochs", "steps", "batch_size", "accumulate", "clip_norm", "label_smoothing", "ema"]
KEYS += ["seed", "checkpoint", "resume", "threads", "kernels", "dtype", "plugins", "prompt", "on"]
KEYS += ["template", "max_new_tokens", "save_every", "eval_every", "log_every", "keep", "stages"]
KEYS += ["context", "draft", "draft_tokens"]
KEYS += ["model", "model.embedding_dim", "model.num_heads", "model.dropout", "model.stack", "data"]
KEYS += [
    "optimizer",
    "optimizer.beta1",
    "schedule",
    "schedule.warmup_steps",
    "tokenizer",
    "sampler",
]
KEYS += ["data.pretrain.path", "data.pretrain.val_fraction", "sampler.temperature", "sampler.top_k"]
KEYS += ["hydra.run.dir", "hydra.mode", "hydra.verbose", "tokenizer.corpus", "experiment", "nope"]
KEYS += ["model.stack.0", "stages.tune.lr", "source", "target", "phase", "tracker", "max_bad_steps"]
PHASES = [
    "check",
    "list",
    "summary",
    "verify",
    "score",
    "generate",
    "evaluate",
    "export",
    "pretrain",
    "tune",
]
FLAGS = [
    "-m",
    "--cfg",
    "job",
    "--info",
    "config",
    "--resolve",
    "--run",
    "--help",
    "--version",
    "-sc",
]
FLAGS += [
    "--config-dir",
    "--config-name",
    "--package",
    "--hydra-help",
    "-x",
    "--",
    "-",
    "=",
    "~",
    "+",
]
SPECIAL = [b"\0", b"\xff", b"\xe6", b"\r\n", b"\n", b'"', b"[", b"]", b"{", b"}", b",", b"\\u0000"]
SPECIAL += [
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"-0",
    b"null",
    b"true",
    b"\xef\xbb\xbf",
    b"\xfe\xff",
    b"&a",
]
SPECIAL += [
    b"*a",
    b"!!python/object:os.system",
    b"${seed}",
    b": ",
    b"- ",
    b"# @package hydra\n",
    b"|",
]
SPECIAL += [
    b"[" * 1200,
    b"x" * 70_000,
    b"\x1b",
    b"<|im_end|>",
    b"</s>",
    b"User: ",
    b"\xf0\x9f\x98\x80",
]


def value(rng):
    """Return a value as one could type it."""
    kind = rng.random()
    if kind < 0.4:
        return str(rng.choice(NUMBERS))
    if kind < 0.9:
        return rng.choice(WORDS).replace("\x00", "")
    return "".join(
        chr(rng.choice([rng.randrange(1, 127), rng.randrange(1, 55000)])) for _ in "abcde"
    )


def mutated(data, rng):
    """Return bytes with a few changes: flips, cuts, repeats, and bytes that mean something."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        way = rng.randrange(5)
        if way == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del data[at : at + rng.randint(1, 40)]
        elif way == 2:
            data[at:at] = rng.choice(SPECIAL)
        elif way == 3:
            data[at:at] = data[at : at + rng.randint(1, 200)] * rng.randint(1, 5)
        else:
            del data[at:]
    return bytes(data)


def twisted(tree, rng):
    """Return JSON values with one of them replaced, removed or nested."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        if rng.random() < 0.15:
            return {k: v for k, v in tree.items() if k != key}
        return {**tree, key: twisted(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.7:
        at = rng.randrange(len(tree))
        return [*tree[:at], twisted(tree[at], rng), *tree[at + 1 :]]
    deep = []
    for _ in range(rng.choice([3, 200])):
        deep = [deep]
    odd = [
        None,
        True,
        "",
        "x",
        "é",
        [],
        {},
        [None],
        {"a": 1},
        deep,
        tree,
        [tree],
        str(tree),
        "../..",
    ]
    return rng.choice([*odd, *NUMBERS])


# the kinds: each returns the arguments of a command, or a function to call


def command(rng, here):
    """Return a command line of keys, values and flags."""
    argv = [f"phase={rng.choice(PHASES)}", *SMALL, "data.pretrain.path=good.txt"]
    argv += ["data.tune.path=good.txt", "checkpoint=run", "prompt=the sun", "max_new_tokens=2"]
    rng.shuffle(argv)
    argv = argv[: rng.randint(3, len(argv))]
    if not any(word.startswith("phase=") for word in argv):
        argv.append("phase=summary")
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(KEYS)
        if rng.random() < 0.1:
            key = key[:-1] + rng.choice("abc.@+ ")
        prefix = rng.choice(["", "", "", "", "+", "++", "~"])
        word = f"{prefix}{key}={value(rng)}" if rng.random() < 0.9 else f"{prefix}{key}"
        argv.insert(rng.randrange(len(argv) + 1), word)
    if rng.random() < 0.2:
        argv.insert(rng.randrange(len(argv) + 1), rng.choice(FLAGS))
    writes = ("hydra.run.dir=/", "target=/", "hydra.sweep.dir=/")
    return [word for word in argv if not word.lstrip("+").startswith(writes)]


def yaml(rng, here):
    """Return a command with a YAML file of one's own, which was made of a shipped one."""
    own = here / "mine" / "experiment"
    own.mkdir(parents=True, exist_ok=True)
    source = rng.choice(sorted((ROOT / "conf").rglob("*.yaml"))).read_bytes()
    if rng.random() < 0.5:
        source = b"# @package _global_\n" + source
    (own / "odd.yaml").write_bytes(mutated(source, rng))
    return [
        "--config-dir",
        "mine",
        "experiment=odd",
        f"phase={rng.choice(['list', 'summary'])}",
        *SMALL,
    ]


DATA = {
    "odd.txt": TEXT.encode(),
    "odd.json": json.dumps(TEXT.splitlines()).encode(),
    "odd.jsonl": b"".join(
        json.dumps(line).encode() + b"\n"
        for line in [
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {"prompt": "the sun", "completion": "sees"},
            {"text": "User: the sun Assistant: sees"},
            "User: the sun Assistant: sees",
        ]
    ),
    "odd.csv": b'text,other\n"the sun",1\n"a ""bird""",2\n',
    "odd.txt.gz": gzip.compress(TEXT.encode()),
}


def data(rng, here):
    """Return a function that reads a data file as training does."""
    import numpy as np

    from llmlab import chats, lines
    from llmlab.text.datasets.text import text as windows

    name = rng.choice(list(DATA))
    path = here / name
    path.write_bytes(mutated(DATA[name], rng))
    kind = rng.choice([lines, chats, windows])
    seed = rng.randrange(100)

    def read():
        tokenizer, template = tools()
        own = {"template": template} if kind is chats else {}
        if kind is windows:
            own = {"cache": str(here / "cache")}
        dataset = kind(str(path), tokenizer, 12, **own)
        for batch in dataset.batches(4, seed, 0):
            assert np.isfinite(batch.weights).all()
            assert (batch.inputs < tokenizer.vocab_size).all()

    return read


_TOOLS = []


def tools():
    """Return a tokenizer and a template, made once."""
    if not _TOOLS:
        from llmlab.text import train_tokenizer
        from llmlab.text.templates import TEMPLATES

        _TOOLS.append((train_tokenizer("byte", []), TEMPLATES.build("user_assistant", "template")))
    return _TOOLS[0]


def meta(rng, here):
    """Return what uses a checkpoint or a record whose content is odd and whose seal is right."""
    from forgery import forge

    from llmlab.checkpoints import load
    from llmlab.runs.record import read_config, read_record

    if rng.random() < 0.3:
        record = here / "run" / "run.json"
        tree = twisted(json.loads((here / "record.json").read_text()), rng)
        record.write_text(json.dumps(tree))
        if rng.random() < 0.9:
            return lambda: (read_record(record.parent), read_config(record.parent))
        return [rng.choice(["resume=run", "phase=verify"]), "checkpoint=run"][: rng.randint(1, 2)]
    sound = load(here / "sound.npz")
    changed = twisted(sound.meta, rng)
    path = here / "forged.npz"
    forge(path, sound.arrays, lambda manifest: manifest.update(meta=changed))
    if rng.random() < 0.7:
        return lambda: load(path)
    phase = rng.choice(["generate", "score", "evaluate", "summary"])
    argv = [f"phase={phase}", "checkpoint=forged.npz", "prompt=the sun", "max_new_tokens=2"]
    if rng.random() < 0.5:
        argv = ["resume=forged.npz", "steps=2", "threads=1"][: rng.randint(1, 3)]
    return [*argv, "data.pretrain.path=good.txt", "data.tune.path=good.txt"]


def archive(rng, here):
    """Return what reads a damaged checkpoint, or an archive that is none."""
    from damage import mutate

    from llmlab.checkpoints import load, peek

    path = here / "damaged.npz"
    sound = (here / "sound.npz").read_bytes()
    if rng.random() < 0.9:
        path.write_bytes(mutate(sound, rng, sound))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name in rng.sample(
                ["manifest.npy", "manifest.sha256.npy", "../x", "params/a.npy"], 2
            ):
                made.writestr(name, mutated(sound[:4000], rng))
    return (lambda: load(path)) if rng.random() < 0.7 else (lambda: peek(path))


def streams(rng, here):
    """Return a command for the shell, with streams that are closed, full or odd."""
    ends = ["", ">&-", "2>&-", "<&-", ">/dev/full", "2>/dev/full", "| true", "2>&1 | head -c 10"]
    asked = ["--help", "phase=list rope", "phase=summary", "--cfg job", "lr=abc", "phase=verify"]
    asked += ["phase=chat max_new_tokens=2", "phase=generate prompt='☆ é' max_new_tokens=2"]
    (here / "typed").write_bytes(mutated(b"the sun\n/help\n/tokens a\n/system b\n", rng))
    source = rng.choice(["/dev/null", "typed", "typed", "/dev/zero"])
    ending = " ".join([*rng.sample(ends[:6], rng.randint(0, 2)), rng.choice(["", *ends[6:]])])
    ending = ending.replace("2>&1", "") if ">&-" in ending else ending  # the shell's own refusal
    code = "exit ${PIPESTATUS[0]}" if "|" in ending else "exit $?"
    program = (
        f"PYTHONIOENCODING={rng.choice(['ascii', 'utf-8', 'latin-1'])} '{sys.executable}' -m llmlab"
    )
    return f"{program} {rng.choice(asked)} checkpoint=run < {source} {ending}; {code}"


# running them


def prepare(folder):
    """Make the folder that each case finds: a text, a run of a step, its checkpoint."""
    from llmlab.cli import main

    (folder / "good.txt").write_text(TEXT)
    os.chdir(folder)
    keys = ["phase=pretrain", "data.pretrain.path=good.txt", "data.tune.path=good.txt"]
    with quiet():
        assert main([*SMALL, *keys, "hydra.run.dir=run"]) == 0
    newest = max((folder / "run" / "checkpoints").glob("step-*.npz"))
    shutil.copy(newest, folder / "sound.npz")
    shutil.copy(folder / "run" / "run.json", folder / "record.json")
    shutil.copytree(folder, folder.parent / "whole")


def restore(folder):
    """Make the folder again what `prepare` left, wherever a case has led."""
    whole = folder.parent / "whole"
    known = {path.name for path in whole.iterdir()}
    for path in folder.iterdir():
        if path.name not in known or path.name == "run":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(whole / "run", folder / "run")
    os.chdir(folder)


@contextlib.contextmanager
def quiet():
    """Take what is printed away, and give back what was written to stderr."""
    out, err = io.StringIO(), io.StringIO()
    log = logging.getLogger("llmlab")
    before = log.propagate, log.level
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield err
        finally:
            log.propagate, log.level = before


def judged(case):
    """Return what is wrong with what came of a case, or None, and how it ended."""
    from llmlab.cli import main
    from llmlab.errors import LlmlabError

    if isinstance(case, str):
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            ["bash", "-c", case],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            timeout=3 * SECONDS,
            check=False,
        )
        return fault(done.returncode, done.stderr.decode(errors="replace")), done.returncode
    with quiet() as err:
        if isinstance(case, list):
            sys.stdin = io.StringIO("")
            code = main(case)
            return fault(code, err.getvalue()), code
        try:
            case()
        except LlmlabError as error:
            told = error.exit_code != 1 and "\n" not in str(error)
            return None if told else f"{error!r}", error.exit_code
        except MemoryError:
            return None, 5
    return None, 0


def fault(code, err):
    """Return why an exit code and its message are none that a user should see."""
    if "Traceback" in err or "LLMLAB_DEBUG" in err:
        return err.strip().splitlines()[-1][:300]
    if code in (0, 2, 3, 4, 5, 141) or (code == 1 and "finite" in err):
        return None
    return f"exit {code}: {err[-300:]}"


def _address_space():
    """Return how many bytes of address space this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def made(number, seed, here, only=None):
    """Return the kind and the case of a number."""
    rng = random.Random(f"{seed}-{number}")
    kind = only or rng.choices(list(KINDS), list(KINDS.values()))[0]
    return kind, globals()[kind](rng, here)


def run(cases, seed, only=None, tell=print):
    """Try cases, each by its number; return (what failed, how many of each kind were tried)."""
    warm_up()
    failed, tried, ends = [], Counter(), Counter()

    def late(number, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, late), sys.stdin, os.getcwd(), sys.argv
    limits = resource.getrlimit(resource.RLIMIT_AS)
    sys.argv = ["llmlab"]
    # V8, which draws the page of a study, aborts under a limit on address space.
    drawing = mock.patch("llmlab.report.page.find_spec", return_value=None)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        here = Path(name) / "here"
        here.mkdir()
        drawing.start()
        try:
            prepare(here)
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, limits[1]))
            for number in cases:
                kind, case = "?", None
                try:
                    restore(here)
                    signal.alarm(4 * SECONDS if only == "streams" else SECONDS)
                    kind, case = made(number, seed, here, only)
                    signal.alarm(4 * SECONDS if kind == "streams" else SECONDS)
                    wrong, end = judged(case)
                    ends[kind, end] += 1
                except Hang:
                    wrong = f"longer than {SECONDS} s"
                except (Exception, SystemExit) as error:
                    wrong = f"{type(error).__name__}: {error}"
                    if len(cases) == 1:
                        traceback.print_exc()
                finally:
                    signal.alarm(0)
                tried[kind] += 1
                if sum(tried.values()) % 1000 == 0:
                    tell(f"{sum(tried.values()):,} cases, {len(failed)} failed")
                if wrong:
                    shown = case if isinstance(case, list | str) else ""
                    failed.append((number, kind, wrong, shown))
                    tell(f"{number} {kind}: {wrong}\n    {str(shown)[:600]}")
        finally:
            drawing.stop()
            resource.setrlimit(resource.RLIMIT_AS, limits)
            signal.signal(signal.SIGALRM, before[0])
            sys.stdin, sys.argv = before[1], before[3]
            os.chdir(before[2])
    codes = {kind: {e: n for (k, e), n in sorted(ends.items()) if k == kind} for kind in tried}
    tell(f"exit codes: {codes}")
    return failed, tried


def warm_up():
    """Take Hydra's own second composition away, and parse a shipped file once."""
    import copy

    from omegaconf import OmegaConf

    load, parsed = OmegaConf.load, {}
    if getattr(load, "once", False):
        return

    def load_once(file):
        name = str(getattr(file, "name", ""))
        if not name.startswith(str(ROOT / "conf")):
            return load(file)
        if name not in parsed:
            parsed[name] = load(file)
        return copy.deepcopy(parsed[name])

    load_once.once = True
    OmegaConf.load = staticmethod(load_once)


def main():
    """Try as many cases as asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--case", type=int)
    given = parser.parse_args()
    sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]
    cases = range(given.first, given.first + given.cases)
    if given.case is not None:
        cases = range(given.case, given.case + 1)
    began = time.monotonic()
    failed, tried = run(cases, given.seed, given.only)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(tried.items()))
    print(
        f"{sum(tried.values()):,} cases ({kinds}) in {seconds:.0f} s, {peak} MiB: "
        f"{len(failed)} failed"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
