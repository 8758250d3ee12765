"""What ranks of MPI rely on, without MPI: who holds what, and what mpirun tells a process."""

from collections import Counter

import numpy as np
import pytest
from trainer_lab import LENGTHS, batch

from llmlab import kernels
from llmlab.cli import ranks as command_line
from llmlab.errors import ConfigError, LlmlabError, TrainingError
from llmlab.layers import build_stack
from llmlab.optim import OPTIMIZERS, Optimizer
from llmlab.params import Layout
from llmlab.plugin_errors import PluginError
from llmlab.resources import resolve_threads
from llmlab.signals import Signals
from llmlab.streams import stream
from llmlab.train.batch_shards import cut
from llmlab.train.division import Division, parts_of
from llmlab.train.ranks import Ranks
from llmlab.train.regions import length, meet
from llmlab.train.worker_errors import OK, error_of, told
from llmlab.train.workers import total
from llmlab.train.workers_mpi import _packed, _unpacked
from llmlab.workspace import Context


class Place:
    """A communicator that knows its size alone."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size


def layout():
    specs = {"norm": "layer_norm", "attention": {"type": "attention", "num_heads": 2}}
    return Layout(build_stack(specs | {"linear": "linear"}, embedding_dim=8, max_seq_len=4))


def items(region):
    return Counter(i for at in region for i in range(at.start, at.stop))


@pytest.mark.parametrize("spec", OPTIMIZERS.names())
@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_own_every_parameter_once(spec, count):
    rule, plan = OPTIMIZERS.build(spec, "optimizer"), layout()
    found = sum((items(rule.owned(plan, (i, count))) for i in range(count)), Counter())
    assert set(found.values()) == {1}
    for at in plan.slices.values():
        assert all(i in found for i in range(at.start, at.stop))


@pytest.mark.parametrize("spec", OPTIMIZERS.names())
def test_a_part_reads_and_changes_only_what_it_owns(spec):
    rule, plan = OPTIMIZERS.build(spec, "optimizer"), layout()
    for part in [(0, 3), (1, 3), (2, 3)]:
        params, grads = plan.init(0, np.float64), plan.zeros(np.float64)
        state = {name: plan.zeros(np.float64) for name in rule.state_names}
        own = [i for at in rule.owned(plan, part) for i in range(at.start, at.stop)]
        grads.flat[:] = np.nan
        grads.flat[own] = stream(0, "gradients").standard_normal(len(own))
        before, ctx = params.flat.copy(), Context(kernels.load("numpy"), np.float64)
        ctx.begin(0, 0)
        rule.update(params, grads, state, lr=0.1, step=1, scale=1.0, part=part, ctx=ctx)
        changed = set(np.flatnonzero(params.flat != before).tolist())
        assert changed and changed <= set(own)
        for arena in (params, *state.values()):
            assert np.isfinite(arena.flat).all()


@pytest.mark.parametrize("spec", ["adamw", "muon"])
@pytest.mark.parametrize("ranks, threads", [(2, 1), (3, 2), (4, 1)])
def test_ranks_hold_the_whole_together(spec, ranks, threads):
    rule, plan = OPTIMIZERS.build(spec, "optimizer"), layout()
    grads = [plan.zeros() for _ in range(threads)]
    division = Division(Ranks(Place(0, ranks)), rule, grads)
    for held in (division.spans, division.owned):
        together = sum(map(items, held), Counter())
        assert set(together.values()) == {1}
    assert sum(map(length, division.spans)) == plan.size


class Whole(Optimizer):
    """An optimizer that can't tell its parts."""

    def update(self, params, grads, state, **given):
        raise AssertionError


def test_an_optimizer_that_cannot_tell_does_all_parts_on_each_rank():
    grads = [layout().zeros() for _ in range(2)]
    for rank in range(3):
        ranks = Ranks(Place(rank, 3))
        of_shards = [parts_of(Whole(), grads, ranks, shard) for shard in range(2)]
        assert [parts[0] for parts in of_shards] == [(2 * rank, 6), (2 * rank + 1, 6)]
        assert sorted(index for parts in of_shards for index, _ in parts) == list(range(6))
    assert Division(Ranks(Place(0, 3)), Whole(), grads).owned is None


def test_regions_meet_where_both_are():
    a, b = [slice(0, 5), slice(8, 12)], [slice(3, 9), slice(11, 20)]
    assert meet(a, b) == [slice(3, 5), slice(8, 9), slice(11, 12)]
    assert meet(a, []) == [] and meet(a, [slice(5, 8)]) == []


def test_shares_come_back_from_bytes():
    whole = batch(LENGTHS, segments=True)
    shares = [[part] for part in cut(whole, 3)] + [[]]
    found = _unpacked(_packed(shares), 4)
    assert [len(share) for share in found] == [1, 1, 1, 0]
    for (given,), (read,) in zip(shares[:3], found[:3], strict=True):
        assert np.array_equal(given.rows, read.rows)
        for name, array in given.batch.arrays().items():
            assert np.array_equal(array, read.batch.arrays()[name]), name


def test_sums_are_in_the_order_of_forked_workers():
    values = [0.1, 0.2, 0.3, 1e16, -1e16]
    assert total(values) == 0.1 + (((0.2 + 0.3) + 1e16) + -1e16)
    assert total([3.5]) == 3.5


@pytest.mark.parametrize(
    "error, kind, text",
    [
        (TrainingError("no gradient"), TrainingError, "no gradient"),
        (MemoryError(), MemoryError, "in rank 1 of 2"),
        (PluginError("my.py:3: KeyError: 'a'"), PluginError, "my.py:3: KeyError: 'a'"),
        (KeyError("a"), RuntimeError, "in rank 1 of 2: KeyError: 'a'"),
    ],
)
def test_an_error_arrives_as_what_it_was(error, kind, text):
    status, sent = told(error, "rank 1 of 2")
    found = error_of(status, sent, "rank 1 of 2")
    assert status != OK and type(found) is kind and str(found) == text
    assert isinstance(found, LlmlabError | MemoryError | RuntimeError)


@pytest.mark.parametrize(
    "environment, size",
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "3"}, 3),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "2"}, 2),
        ({"SLURM_STEP_NUM_TASKS": "2"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "many"}, 1),
    ],
)
def test_the_number_of_processes_is_what_mpirun_says(monkeypatch, environment, size):
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command_line.launched() == size


def test_a_sweep_is_refused_where_ranks_are_asked_for(monkeypatch):
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    command_line.refuse_sweep(["lr=1,2"])
    with pytest.raises(ConfigError, match=r"workers=mpi: .* a sweep or a search can't use it"):
        command_line.refuse_sweep(["lr=1,2", "workers=mpi"])
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="workers=mpi"):
        command_line.refuse_sweep(["lr=1,2"])


@pytest.mark.parametrize(
    "ranks, here, wanted", [(1, 1, 8), (2, 2, 4), (2, 1, 8), (16, 8, 1), (64, 1, 1), (16, 1, 3)]
)
def test_ranks_of_a_machine_share_its_cores(monkeypatch, ranks, here, wanted):
    monkeypatch.setattr("llmlab.resources.usable_cpus", lambda: 8)
    assert resolve_threads("auto", 64, 256, ranks, here) == wanted


def test_a_signal_that_reached_another_process_counts():
    heard = []
    with Signals(lambda: heard[0] if heard else 0) as signals:
        assert signals.received is None
        heard.append(10)
        assert signals.received == 10 and signals.exit_code == 138
