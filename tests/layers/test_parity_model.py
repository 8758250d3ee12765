"""Whole networks and training against PyTorch, in float64."""

import numpy as np
import pytest
from networks import gpt_stack, rustgpt_stack

from llmlab import kernels
from llmlab.batch import Batch
from llmlab.optim import OPTIMIZERS
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.train.trainer import Trainer
from llmlab.workspace import Context

pytestmark = pytest.mark.parity

LIMIT, CLIP = 1e-10, 4.5


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    import torch_models

    yield torch_models
    torch.set_default_dtype(torch.float32)


def rustgpt(r):
    blocks = []
    for _ in range(3):
        attention = r.Attention(128, 1, bias=False, output_projection=False)
        blocks.append(r.Residual(attention, r.Norm(128), pre=False))
        blocks.append(r.Residual(r.FeedForward(128, 256), r.Norm(128), pre=False))
    return r.Model(533, 128, 80, blocks)


def gpt(r):
    blocks = []
    for _ in range(2):
        blocks.append(r.Residual(r.Attention(32, 4, 2), r.Norm(32), pre=True))
        blocks.append(r.Residual(r.FeedForward(32, 48), r.Norm(32), pre=True))
    return r.Model(97, 32, 80, blocks, norm=r.Norm(32), tied=True)


NETWORKS = {
    "rustgpt": (533, rustgpt_stack, rustgpt),
    "gpt": (97, lambda: gpt_stack(97, 32, 80, hidden_dim=48), gpt),
}


def batch(vocabulary, lengths, seed):
    rng = stream(seed, "batch")
    inputs, targets = rng.integers(vocabulary, size=(2, len(lengths), max(lengths)))
    used = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return Batch(inputs * used, targets * used, used.astype(np.float32))


def mean_loss(r, module, whole):
    """Return the mean loss over the targets; -100 is what PyTorch leaves out."""
    targets = np.where(whole.weights > 0, whole.targets, -100)
    logits = module(r.torch.from_numpy(whole.inputs))
    return r.F.cross_entropy(logits.flatten(0, 1), r.torch.from_numpy(targets).flatten())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_twenty_clipped_steps_of_adam(reference, name, threads):
    torch, (vocabulary, make, twin) = reference.torch, NETWORKS[name]
    stack = make()
    params = Layout(stack).init(7, np.float64)
    for key, view in params.items():
        if view.ndim == 1:
            view += 0.2 * stream(7, key).standard_normal(view.shape)
    module = twin(reference)
    reference.load(module, dict(params.items()))
    assert sum(p.numel() for p in module.parameters()) == Layout(stack).num_parameters
    rule = torch.optim.Adam(module.parameters(), lr=1e-3)
    norms = []
    options = {"lr": 1e-3, "clip_norm": CLIP, "threads": threads}
    with Trainer(stack, params, OPTIMIZERS.build("adam", ""), **options) as trainer:
        for step in range(20):
            whole = batch(vocabulary, [80, 66, 3] if step == 0 else [9, 14, 1, 5], step)
            rule.zero_grad()
            loss = mean_loss(reference, module, whole)
            loss.backward()
            wanted = reference.collect(module)  # copies, before clipping
            parameters = list(module.parameters())
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
            # PyTorch divides by the norm + 1e-6, which is meant to matter to nobody.
            torch.nn.utils.clip_grad_norm_(parameters, CLIP * (1 + 1e-6 / norm))
            rule.step()
            result = trainer.step([whole])
            norms.append(result.grad_norm)
            assert abs(result.loss - loss.item()) <= LIMIT
            assert abs(result.grad_norm - norm.item()) <= LIMIT * max(1.0, norm.item())
            assert wanted.keys() == dict(trainer.grads.items()).keys()
            for key, gradient in wanted.items():
                close(key, trainer.grads[key], gradient)
        values = reference.collect(module, gradients=False)
        for key, value in values.items():
            close(key, trainer.params[key], value)
    assert min(norms) < CLIP < max(norms), "clipping was never, or always, at work"


def close(name, found, wanted):
    error = np.abs(found - wanted).max()
    assert error <= LIMIT * max(1.0, np.abs(wanted).max()), f"{name}: {error:.3g}"


def test_forward(reference):
    torch = reference.torch
    for vocabulary, make, twin in NETWORKS.values():
        stack = make()
        params, module = Layout(stack).init(1, np.float64), twin(reference)
        reference.load(module, dict(params.items()))
        ids = stream(1, "ids").integers(vocabulary, size=(2, 80))
        ctx = Context(kernels.load("numpy"), np.float64)
        ctx.begin(2, 80)
        logits, _ = stack.forward(params.tree, ids.reshape(-1), ctx)
        with torch.no_grad():
            close("logits", logits, module(torch.from_numpy(ids)).flatten(0, 1).numpy())
