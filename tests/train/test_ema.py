"""The running mean of the weights, and label smoothing."""

from dataclasses import replace

import numpy as np
import pytest
from trainer_lab import LENGTHS, VOCABULARY, batch, trainer

from llmlab import kernels
from llmlab.errors import ConfigError
from llmlab.streams import stream
from llmlab.workspace import Context


def test_the_mean_is_the_formula():
    with trainer(ema=0.9) as t:
        mean = t.params.flat.copy()
        for update in range(1, 31):
            t.step([batch(LENGTHS, update)])
            decay = min(0.9, (1 + update) / (10 + update))
            mean = decay * mean + (1 - decay) * t.params.flat
        assert np.abs(t.averaged.flat - mean).max() <= 1e-14
        assert np.abs(mean - t.params.flat).max() > 1e-3
    with trainer() as t:
        assert t.averaged is t.params and not any(name.startswith("ema/") for name in t.arrays())


def test_training_is_the_same_with_and_without():
    steps = [[batch(LENGTHS, seed)] for seed in range(4)]
    with trainer() as one, trainer(ema=0.99) as two:
        for step in steps:
            assert one.step(step) == two.step(step)
        assert np.array_equal(one.params.flat, two.params.flat)


def test_a_bad_step_leaves_the_mean():
    with trainer(ema=0.5, dtype=np.float32) as t:
        t.step([batch(LENGTHS)])
        before = t.averaged.flat.copy()
        t.params["norm.bias"][0] = np.nan
        assert t.step([batch(LENGTHS)]).skipped
        assert np.array_equal(t.averaged.flat, before)


@pytest.mark.every_day(1)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_continued_run_is_the_same_run(threads, optimizer):
    options = {"ema": 0.9, "threads": threads, "dtype": np.float32, "optimizer": optimizer}
    steps = [[batch(LENGTHS, seed)] for seed in range(6)]
    with trainer(**options) as t:
        for step in steps[:3]:
            t.step(step)
        middle = {name: view.copy() for name, view in t.arrays().items()}
        for step in steps[3:]:
            t.step(step)
        whole = {name: view.copy() for name, view in t.arrays().items()}
    with trainer(**options) as t:
        t.load(middle, 3, 3)
        for step in steps[3:]:
            t.step(step)
        assert t.arrays().keys() == whole.keys()
        for name, view in t.arrays().items():
            assert np.array_equal(view, whole[name]), name
    with trainer(**options) as t:  # without the number of updates it must differ
        t.load(middle, 3, 0)
        for step in steps[3:]:
            t.step(step)
        assert not np.array_equal(t.averaged["norm.weight"], whole["ema/norm.weight"])


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, float("nan")])
def test_refused(decay):
    with pytest.raises(ConfigError, match="ema="):
        trainer(ema=decay)


# Label smoothing


def smoothed(logits, targets, weights, share):
    v = logits.shape[1]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = np.full(logits.shape, share / v)
    wanted[np.arange(len(targets)), targets] += 1 - share
    loss = -(wanted * log_p).sum(axis=1)
    return float(loss @ weights), (np.exp(log_p) - wanted) * weights[:, None]


@pytest.mark.every_day(2)
@pytest.mark.parametrize("kernel_set", ["numpy", "numba"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_smoothed_cross_entropy(share, kernel_set):
    if kernel_set == "numba":
        pytest.importorskip("numba")
    ctx = Context(kernels.load(kernel_set), np.float64)
    ctx.begin(3, 4)
    logits = 2 * stream(0, "logits").standard_normal((12, 7))
    targets, weights = stream(0, "t").integers(7, size=12), np.arange(12) % 3 / 2.0
    loss, dlogits = ctx.kernels.cross_entropy(ctx, logits, targets, weights, 0.25)
    loss += ctx.kernels.smooth_labels(ctx, logits, targets, weights, 0.25, share, dlogits)
    wanted, gradient = smoothed(logits, targets, weights, share)
    assert loss == pytest.approx(wanted, rel=1e-12)
    assert np.abs(dlogits - 0.25 * gradient).max() <= 1e-14


@pytest.mark.parity
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_smoothing_is_that_of_pytorch(share):
    torch = pytest.importorskip("torch")
    ctx = Context(kernels.load("numpy"), np.float64)
    ctx.begin(5, 10)
    logits = 3 * stream(1, "logits").standard_normal((50, 13))
    targets = stream(1, "targets").integers(13, size=50)
    ones = np.ones(50)
    loss, dlogits = ctx.kernels.cross_entropy(ctx, logits, targets, ones, 1 / 50)
    loss += ctx.kernels.smooth_labels(ctx, logits, targets, ones, 1 / 50, share, dlogits)
    z = torch.from_numpy(logits).requires_grad_()
    function = torch.nn.functional.cross_entropy
    wanted = function(z, torch.from_numpy(targets), label_smoothing=share)
    wanted.backward()
    assert abs(loss / 50 - wanted.item()) <= 1e-10
    assert np.abs(dlogits - z.grad.numpy()).max() <= 1e-10


def test_smoothed_steps_do_not_depend_on_threads():
    whole = replace(batch(LENGTHS))
    with trainer(label_smoothing=0.3) as one, trainer(label_smoothing=0.3, threads=2) as two:
        a, b = one.step([whole]), two.step([whole])
        assert a.loss == pytest.approx(b.loss, rel=1e-12)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-12)
    with trainer() as plain:
        assert plain.step([whole]).loss != pytest.approx(a.loss, rel=1e-4)


def test_smoothing_all_the_way_wants_every_token_alike():
    with trainer(label_smoothing=0.999, lr=3e-2) as t:
        losses = [t.step([batch([6, 4])]).loss for _ in range(60)]
    assert losses[-1] == pytest.approx(np.log(VOCABULARY), abs=0.05)
