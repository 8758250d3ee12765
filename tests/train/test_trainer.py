"""Steps: the same loss and gradient however a batch is cut, clipping, bad steps, workers."""

import errno
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import threadpoolctl
from networks import gpt_stack
from trainer_lab import LENGTHS, VOCABULARY, batch, run, trainer

from llmlab import kernels
from llmlab.batch import Batch
from llmlab.errors import ResourceError, TrainingError
from llmlab.layers.linear import Linear
from llmlab.optim import OPTIMIZERS, SCHEDULES
from llmlab.params import Layout
from llmlab.train import workers_forked
from llmlab.train.batch_shards import cut
from llmlab.train.trainer import Trainer
from llmlab.workspace import Context


def part(whole, rows):
    names = ("inputs", "targets", "weights")
    return replace(whole, **{name: getattr(whole, name)[rows] for name in names})


def agree(one, two, tolerance=1e-12):
    (results, grads, params), (results2, grads2, params2) = one, two
    for a, b in zip(results, results2, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=tolerance)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=tolerance)
        assert a.tokens == b.tokens
    assert np.abs(grads - grads2).max() <= tolerance * np.abs(grads).max()
    # Adam divides by the gradient's own size, which makes much of the last bits of a tiny one.
    assert np.abs(params - params2).max() <= 1e3 * tolerance * np.abs(params).max()


def test_loss_is_the_mean_over_target_tokens():
    whole = batch(LENGTHS)
    results, _, _ = run([[whole]])
    stack = gpt_stack(VOCABULARY)
    params, total = Layout(stack).init(3, np.float64), 0.0
    for row, length in enumerate(LENGTHS):
        ctx = Context(kernels.load("numpy"), np.float64)
        ctx.begin(1, length)
        logits, _ = stack.forward(params.tree, whole.inputs[row, :length], ctx)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        total -= np.log(odds[np.arange(length), whole.targets[row, :length]]).sum()
    assert results[0].loss == pytest.approx(total / sum(LENGTHS), rel=1e-12)
    assert results[0].tokens == sum(LENGTHS)


@pytest.mark.parametrize("lengths", [LENGTHS, [6] * 8])
def test_accumulated_batches_are_one_batch(lengths):
    whole = batch(lengths)
    parts = [part(whole, slice(start, start + 2)) for start in range(0, 8, 2)]
    agree(run([[whole]] * 2), run([parts] * 2))


@pytest.mark.every_day(3)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("lengths", [LENGTHS, [6] * 8, [4], [1, 1]])
def test_threads_change_nothing(lengths, dropout):
    steps = [[batch(lengths, seed), batch(lengths[::-1], seed + 9)] for seed in range(2)]
    agree(run(steps, dropout=dropout), run(steps, dropout=dropout, threads=2))


def test_more_threads_than_rows_and_packed_rows():
    agree(run([[batch([3, 5])]]), run([[batch([3, 5])]], threads=4))
    steps = [[batch(LENGTHS, segments=True)]]
    agree(run(steps), run(steps, threads=3))
    assert run(steps)[0][0].loss != run([[batch(LENGTHS)]])[0][0].loss


def test_dropout_of_long_rows_does_not_depend_on_padding_either():
    stack = gpt_stack(VOCABULARY, max_seq_len=80, dropout=0.3)  # two blocks of queries
    whole = batch([70, 3, 66, 20])
    parts = [part(whole, slice(2)), part(whole, slice(2, 4))]
    agree(run([[whole]], stack=stack), run([[whole]], stack=stack, threads=3))
    agree(run([[whole]], stack=stack), run([parts], stack=stack))


def test_dropout_masks_depend_on_seed_step_and_row_alone():
    whole = batch([6] * 8)
    halves = [part(whole, slice(4)), part(whole, slice(4, 8))]
    agree(run([[whole]], dropout=0.3), run([halves], dropout=0.3))
    losses = {run([[whole]], dropout=0.3, seed=seed)[0][0].loss for seed in (0, 1, None)}
    assert len(losses) == 3
    assert run([[whole]], dropout=0.3, seed=None)[0] == run([[whole]], seed=None)[0]
    twice = batch([6, 6])
    twice = replace(twice, inputs=twice.inputs[[0, 0]], targets=twice.targets[[0, 0]])
    with trainer(dropout=0.5, lr=0.0) as t:
        assert t.step([twice]).loss != t.step([twice]).loss


@pytest.mark.parametrize("threads", [1, 2])
def test_repeated_runs_are_bit_identical(threads):
    steps = [[batch(LENGTHS, seed)] for seed in range(3)]
    options = {"dtype": np.float32, "dropout": 0.2, "threads": threads}
    one, two = run(steps, **options), run(steps, **options)
    assert one[0] == two[0]
    assert np.array_equal(one[1], two[1]) and np.array_equal(one[2], two[2])


def test_a_target_outside_the_vocabulary_is_refused():
    wrong = batch(LENGTHS)
    wrong.targets[0, 0] = VOCABULARY
    with trainer() as t, pytest.raises(ValueError, match=f"target {VOCABULARY}: must be 0 to"):
        t.step([wrong])


def test_padding_changes_nothing():
    steps, padded = [[batch(LENGTHS)]], [[batch(LENGTHS)]]
    whole = steps[0][0]
    rows = ((0, 2), (0, 3))  # two empty rows, three empty columns
    padded = Batch(*(np.pad(x, rows) for x in (whole.inputs, whole.targets, whole.weights)))
    agree(run(steps), run([[padded]]))
    agree(run(steps), run([[padded]], threads=2))


def test_fractional_weights_weigh():
    whole = batch([5, 5])
    weights = np.array([[1.0], [0.5]], np.float32) * whole.weights
    weighted = run([[replace(whole, weights=weights)]])[0][0]
    one, two = (run([[part(whole, slice(i, i + 1))]])[0][0].loss for i in (0, 1))
    assert weighted.loss == pytest.approx((one + 0.5 * two) / 1.5, rel=1e-12)
    assert weighted.tokens == 7.5


def test_shards_hold_every_row_once():
    whole = batch(LENGTHS)
    for count in (1, 2, 3, 8, 20):
        shares = cut(whole, count, first_row=10)
        assert len(shares) <= count
        assert sorted(np.concatenate([share.rows for share in shares])) == list(range(10, 18))
        for share in shares:
            longest = max(LENGTHS[row - 10] for row in share.rows)
            assert share.batch.inputs.shape == (len(share.rows), longest)
        assert sum(share.batch.tokens for share in shares) == sum(LENGTHS)


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    class Plain(type(OPTIMIZERS.build("adam", ""))):
        state_names = ()

        def update(self, params, grads, state, *, lr, step, scale, part, ctx):
            params.flat[:] -= lr * scale * grads.flat

    def moved(clip):
        stack = gpt_stack(VOCABULARY)
        params = Layout(stack).init(3, np.float64)
        with Trainer(stack, params, Plain(), lr=1.0, clip_norm=clip) as t:
            result = t.step([batch(LENGTHS)])
            return result, np.linalg.norm(t.params.flat - params.flat), t.grads.flat.copy()

    result, length, grads = moved(None)
    norm = result.grad_norm
    assert norm == pytest.approx(np.linalg.norm(grads), rel=1e-12)
    assert length == pytest.approx(norm)
    assert moved(norm / 3)[1] == pytest.approx(norm / 3)
    assert moved(norm * 2)[1] == pytest.approx(norm)
    assert moved(norm / 3)[0].grad_norm == pytest.approx(norm)  # before clipping


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_steps_that_are_not_finite_change_nothing(bad, threads):
    with trainer(threads=threads, dtype=np.float32) as t:
        t.step([batch(LENGTHS)])
        good = t.params.flat.copy()
        t.params["output.weight" if "output.weight" in list(t.params) else "norm.bias"][0] = bad
        before = {name: array.copy() for name, array in t.arrays().items()}
        result = t.step([batch(LENGTHS)])
        assert result.skipped and (t.steps, t.updates) == (2, 1)
        for name, array in t.arrays().items():
            assert np.array_equal(array, before[name], equal_nan=True), name
        t.params.flat[:] = good
        assert not t.step([batch(LENGTHS)]).skipped and (t.steps, t.updates) == (3, 2)


def test_learning_rate_follows_the_schedule():
    warm_up = SCHEDULES.build({"type": "constant", "warmup_steps": 4}, "schedule")
    results, _, _ = run([[batch([4])]] * 6, schedule=warm_up, lr=0.5)
    assert [r.lr for r in results] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


def test_training_learns_a_batch_by_heart():
    results, _, _ = run([[batch([6, 4])]] * 60, dtype=np.float32)
    assert results[-1].loss < 0.1 * results[0].loss


def test_first_values_are_copied():
    stack = gpt_stack(VOCABULARY)
    params = Layout(stack).init(3)
    before = params.flat.copy()
    with Trainer(stack, params, OPTIMIZERS.build("adam", ""), lr=1.0) as t:
        t.step([batch([4])])
        assert not np.array_equal(t.params.flat, before)
    assert np.array_equal(params.flat, before)


# Workers


class Fails(Linear):
    """Fail on the rows of one shard alone: those with this many tokens."""

    def forward(self, p, x, ctx):
        if ctx.time == 5:
            raise KeyError("a mistake in a layer")
        return super().forward(p, x, ctx)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_end_and_blas_gets_its_threads_back():
    def blas():
        found = threadpoolctl.threadpool_info()
        return [lib["num_threads"] for lib in found if lib["user_api"] == "blas"]

    before = blas()
    with trainer(threads=3) as t:
        t.step([batch(LENGTHS)])
        pids = [worker.pid for worker in t._workers._workers]
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        assert set(blas()) == {1}
    assert not any(alive(pid) for pid in pids)
    assert blas() == before
    t.close()  # once more does no harm


@pytest.mark.skipif(not workers_forked.can_fork(), reason="workers are forked on Linux alone")
def test_a_fork_that_is_refused_leaves_nothing_behind(monkeypatch):
    def threads():
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info()]

    pids, fork, before = [], os.fork, threads()
    descriptors = len(os.listdir("/proc/self/fd"))

    def once():
        if pids:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        pids.append(fork())
        return pids[0]

    monkeypatch.setattr(os, "fork", once)
    with pytest.raises(ResourceError, match="no further process"):
        trainer(threads=3)
    assert not alive(pids[0])
    assert threads() == before and len(os.listdir("/proc/self/fd")) == descriptors
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_without_forks_blas_gets_the_threads(monkeypatch):
    monkeypatch.setattr("llmlab.train.trainer.can_fork", lambda: False)
    with trainer(threads=2) as t:
        assert t.threads == 1
        assert {lib["num_threads"] for lib in threadpoolctl.threadpool_info()} == {2}
    agree(run([[batch(LENGTHS)]]), run([[batch(LENGTHS)]], threads=2))


@pytest.mark.skipif(not workers_forked.can_fork(), reason="workers are forked on Linux alone")
def test_an_error_in_a_worker_arrives_with_its_traceback():
    with trainer(threads=2, stack=ending_in(Fails)) as t:
        pids = [worker.pid for worker in t._workers._workers]
        with pytest.raises(Exception, match="a mistake in a layer") as error:
            t.step([batch([2, 2, 5, 5])])
        assert str(error.value) == "in a worker process: KeyError: 'a mistake in a layer'"
        trace = str(error.value.__cause__)
        assert "in forward" in trace and "KeyError" in trace
    assert not any(alive(pid) for pid in pids)


class AddsToG(Linear):
    """Add to `g` itself, which learns nothing; the bias is left out."""

    def backward(self, p, g, dy, cache, ctx):
        g["weight"] += cache.T @ dy
        return dy @ p["weight"].T


class SkipsWhere(Linear):
    """Write no gradient on the rows of one shard alone: those with this many tokens."""

    def backward(self, p, g, dy, cache, ctx):
        if ctx.time != 5:
            return super().backward(p, g, dy, cache, ctx)
        return dy @ p["weight"].T


def ending_in(layer):
    stack = gpt_stack(VOCABULARY)
    stack.layers["output"] = layer(8, VOCABULARY)
    return type(stack)(stack.layers)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layer", [AddsToG, SkipsWhere])
def test_a_gradient_that_nobody_wrote_is_told(layer, threads):
    with trainer(threads=threads, stack=ending_in(layer)) as t:
        before = t.params.flat.copy()
        with pytest.raises(TrainingError) as error:
            t.step([batch([2, 2, 5, 5])])
        assert np.array_equal(t.params.flat, before)
    assert str(error.value) == (
        "output.weight, output.bias: backward wrote no gradient; a layer adds to "
        "ctx.gradient(g['weight']), not to g['weight'], or calls ctx.add_product"
    )


def test_a_shard_without_rows_has_a_gradient_of_zeros():
    with trainer(threads=2) as t:
        t.step([batch([3, 3])])
        t.step([batch([3])])
        assert not t._grads[1].flat.any()


@pytest.mark.skipif(not workers_forked.can_fork(), reason="workers are forked on Linux alone")
def test_a_worker_that_is_killed_is_an_error_not_a_wait():
    with trainer(threads=2) as t:
        t.step([batch(LENGTHS)])
        os.kill(t._workers._workers[0].pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match="ended unexpectedly"):
            t.step([batch(LENGTHS)])


@pytest.mark.skipif(not workers_forked.can_fork(), reason="workers are forked on Linux alone")
def test_workers_say_nothing_when_numbers_overflow(capfd):
    with trainer(threads=2, dtype=np.float32) as t:
        t.params.flat[:] = 3e38
        assert t.step([batch(LENGTHS)]).skipped
    assert capfd.readouterr().err == ""
