"""Training over the ranks of MPI: the numbers of threads, whatever ends it, in one line."""

import json
import os
import signal
import time
import zipfile

import mpirun
import pytest
from hashes import hashes
from namespaces import CannotError, Machines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(mpirun.why_not()), reason=mpirun.why_not() or ""),
]
TINY = ["experiment=tiny", "phase=pretrain", "batch_size=16"]
SHORT = [*TINY, "steps=6", "eval_every=3", "data.pretrain.val_fraction=0.1"]
MPI = ["workers=mpi", "threads=1"]
WHOLE = ["model.dropout=0.1", "accumulate=2", "ema=0.9"]

MOMENTUM = """
from llmlab.optim import OPTIMIZERS, Optimizer
from llmlab.optim.base import span

@OPTIMIZERS.register("my_momentum")
class Momentum(Optimizer):
    state_names = ("v",)

    def update(self, params, grads, state, *, lr, step, scale, part, ctx):
        at = span(len(params.flat), part)
        v = state["v"].flat[at]
        v *= 0.9
        v += scale * grads.flat[at]
        params.flat[at] -= lr * v
"""

FAILING = """
import os
from llmlab.layers import LAYERS
from llmlab.layers.norms import LayerNorm

@LAYERS.register("my_norm")
class Norm(LayerNorm):
    def forward(self, p, x, ctx):
        if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
            raise KeyError("a mistake in a layer")
        return super().forward(p, x, ctx)
"""


def train(folder, name, *argv, ranks=0, **options):
    """Train in a folder of this name; return the hash of its arrays and metrics."""
    code, _, err = mpirun.run(ranks, *argv, f"hydra.run.dir={name}", folder=folder, **options)
    assert code == 0, err
    return hashes(folder / name)


@pytest.mark.parametrize(
    "keys, counts",
    [
        (["optimizer=adamw"], [4]),
        (["optimizer=muon"], [4]),
        (["optimizer=adamw", *WHOLE], [2, 4]),
        (["optimizer=muon", *WHOLE, "dtype=float64"], [2, 4]),
        (["experiment=mixed", "phase=tune", "data.tune.packed=true", "steps=12"], [2, 4]),
    ],
    ids=["adamw", "muon", "adamw-whole", "muon-whole", "mixture-packed"],
)
def test_ranks_give_the_bytes_of_threads(tmp_path, keys, counts):
    for count in counts:
        wanted = train(tmp_path, f"threads-{count}", *SHORT, *keys, f"threads={count}")
        for ranks, threads in ((2, 1),) if count == 2 else ((4, 1), (2, 2)):
            argv = [*SHORT, *keys, "workers=mpi", f"threads={threads}"]
            found = train(tmp_path, f"{ranks}-times-{threads}", *argv, ranks=ranks)
            assert found == wanted, (ranks, threads)


def test_both_stages_give_the_bytes_of_threads(tmp_path):
    keys = ["experiment=tiny", "chat=false", "batch_size=16"]
    wanted = train(tmp_path, "threads", *keys, "threads=2")
    assert train(tmp_path, "ranks", *keys, *MPI, ranks=2) == wanted


@pytest.mark.parametrize("ranks, threads", [(2, 1), (3, 2)])
def test_an_optimizer_that_cannot_tell_its_parts_is_not_divided(tmp_path, ranks, threads):
    (tmp_path / "my_optimizers.py").write_text(MOMENTUM)
    keys = [*SHORT, "plugins=my_optimizers.py", "optimizer.type=my_momentum", "lr=0.05"]
    wanted = train(tmp_path, "threads", *keys, f"threads={ranks * threads}")
    argv = [*keys, "workers=mpi", f"threads={threads}"]
    assert train(tmp_path, "ranks", *argv, ranks=ranks) == wanted


def test_over_two_machines_the_bytes_are_the_same(tmp_path):
    try:
        with Machines(rate=1000) as machines:
            argv = [*SHORT, "optimizer=muon", *WHOLE]
            wanted = train(tmp_path, "threads", *argv, "threads=2")
            assert train(tmp_path, "ranks", *argv, *MPI, ranks=2, machines=machines) == wanted
    except CannotError as error:
        pytest.skip(str(error))


def begin(folder, name, ranks, *keys, program=("-m", "llmlab")):
    """Start a long run, and return its process when it has done some steps."""
    argv = [*TINY, *MPI, "steps=100000", "save_every=10", *keys, f"hydra.run.dir={name}"]
    process = mpirun.start(ranks, *argv, folder=folder, program=program)
    rows, end = folder / name / "metrics.jsonl", time.monotonic() + mpirun.SECONDS
    while not (rows.exists() and rows.read_bytes().count(b"\n") > 12):
        assert process.poll() is None and time.monotonic() < end, mpirun.finish(process)
        time.sleep(0.02)
    return process


def steps(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]


# A SIGTERM to mpirun itself is passed on, too, but it kills a second later.
@pytest.mark.parametrize(
    "number, rank", [(signal.SIGUSR1, None), (signal.SIGTERM, 0), (signal.SIGTERM, 1)]
)
def test_a_signal_to_any_rank_stops_all_at_one_step(tmp_path, number, rank):
    process = begin(tmp_path, "run", 2)
    os.kill(process.pid if rank is None else mpirun.members(process)[rank], number)
    code, _, err = mpirun.finish(process)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert code == 128 + number, err
    assert record["status"] == ("stopped" if number == signal.SIGTERM else "preempted")
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps(tmp_path / 'run'):06d}.npz").exists()
    assert "continue with: mpirun -n 2 python -m llmlab resume=run" in err
    last = steps(tmp_path / "run") + 4
    again = mpirun.run(2, "resume=run", f"steps={last}", folder=tmp_path)
    assert again[0] == 0, again
    train(tmp_path, "calm", *TINY, "threads=2", "save_every=10", f"steps={last}")
    assert kept(tmp_path / "run", last) == kept(tmp_path / "calm", last)


def kept(folder, step):
    """Return what two runs must have alike that have saved at other steps."""
    newest = folder / "checkpoints" / f"step-{step:06d}.npz"
    return (folder / "metrics.jsonl").read_bytes(), arrays(newest)


def arrays(path):
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("manifest")]
        return {name: archive.read(name) for name in sorted(names)}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_the_run_goes_on_from_its_checkpoint(tmp_path, rank):
    process = begin(tmp_path, "run", 2)
    pids = mpirun.members(process)
    os.kill(pids[rank], signal.SIGKILL)
    code, _, _ = mpirun.finish(process)
    assert code != 0
    end = time.monotonic() + mpirun.SECONDS
    while not all(map(mpirun.ended, pids)):
        assert time.monotonic() < end, "a rank lives on"
        time.sleep(0.02)
    last = steps(tmp_path / "run") + 4
    again = mpirun.run(2, "resume=run", f"steps={last}", folder=tmp_path)
    assert again[0] == 0, again
    train(tmp_path, "calm", *TINY, "threads=2", "save_every=10", f"steps={last}")
    assert kept(tmp_path / "run", last) == kept(tmp_path / "calm", last)


def test_another_number_of_ranks_continues_and_is_told(tmp_path):
    train(tmp_path, "run", *TINY, *MPI, "steps=4", ranks=2)
    for ranks, steps, text in ((4, 6, "threads was 2 and is 4"), (0, 8, "threads was 4 and is 1")):
        code, _, err = mpirun.run(ranks, "resume=run", f"steps={steps}", folder=tmp_path)
        assert code == 0 and f"the number of {text}: the last bits" in err, err
    assert "workers=mpi: this is the only rank" in err
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 8


def test_only_rank_0_writes(tmp_path):
    code, out, err = mpirun.run(4, *SHORT, *MPI, folder=tmp_path)
    assert code == 0 and len(list((tmp_path / "runs" / "pretrain").iterdir())) == 1
    assert out.count("run: ") == 1 and err.count("target tokens and") == 1, out + err


SEARCH = ["phase=search", "lr=interval(1e-4,1e-1)", "search.trials=2"]


@pytest.mark.parametrize(
    "ranks, argv, code, line",
    [
        (2, TINY, 2, "error: workers=fork: mpirun has started 2 processes, of which one would"),
        (
            2,
            [*TINY, *MPI, "batch_size=1"],
            2,
            "error: workers=mpi: 2 ranks, more than batch_size=1",
        ),
        (
            2,
            [*TINY, "workers=mpi", "threads=9"],
            2,
            "error: workers=mpi: 2 ranks, each with threads",
        ),
        (2, ["-m", *TINY, *MPI, "lr=1e-3,1e-4"], 2, "error: workers=mpi: shares the batches of"),
        (0, ["-m", *TINY, *MPI, "lr=1e-3,1e-4"], 2, "error: workers=mpi: shares the batches of"),
        (2, [*TINY, *MPI, *SEARCH], 2, "error: workers=mpi: shares the batches of"),
        (2, [*TINY, *SEARCH], 2, "error: workers=mpi: shares the batches of"),
        (2, [*TINY, *MPI, "lrr=1"], 2, "error: lrr: unknown key"),
        (2, [*TINY, "workers=mpj"], 2, "error: workers=mpj"),
        (2, [*TINY, *MPI, "data.pretrain.path=/nowhere"], 3, "error: /nowhere: no such file"),
    ],
    ids=[
        "fork",
        "rows",
        "shards",
        "sweep",
        "sweep-alone",
        "search",
        "search-of-forks",
        "key",
        "value",
        "data",
    ],
)
def test_bad_use_is_one_line(tmp_path, ranks, argv, code, line):
    found, _, err = mpirun.run(ranks, *argv, folder=tmp_path)
    assert found == code and err.startswith(line) and err.count("\n") == 1, err
    assert not (tmp_path / "runs").exists()


def test_an_error_of_one_rank_is_told_once_and_recorded(tmp_path):
    (tmp_path / "my_layers.py").write_text(FAILING)
    keys = ["plugins=my_layers.py", "model.stack.blocks.layers.attention.norm.type=my_norm"]
    code, _, err = mpirun.run(2, *TINY, *MPI, *keys, "hydra.run.dir=run", folder=tmp_path)
    assert code == 1 and err.count("a mistake in a layer") == 1, err
    assert "error: layer blocks.0.attention.norm: my_layers.py:10: KeyError" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_without_mpi4py_the_extra_is_named(tmp_path):
    code = "import sys; sys.modules['mpi4py'] = None; from llmlab.cli import main; sys.exit(main())"
    found = mpirun.run(0, *TINY, *MPI, folder=tmp_path, program=("-c", code))
    assert found[0] == 5 and "pip install 'llmlab[mpi]'" in found[2], found
    assert found[2].count("\n") == 1
