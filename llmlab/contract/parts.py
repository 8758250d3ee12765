"""The contracts of what isn't a layer, as checks of a function that builds it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from llmlab.batch import Batch
from llmlab.contract.bench import NUMPY
from llmlab.contract.probes import SIZES
from llmlab.generate.samplers import Rows, Search
from llmlab.layers import build_stack
from llmlab.params import Layout
from llmlab.streams import stream
from llmlab.text import Message, Tokenizer
from llmlab.workspace import Context

Build = Callable[[], Any]
TEXTS = ("the cat sat on the mat", "a dog, and another dog", "Rain falls; rivers rise.")
STEPS = 20
_CHAT = (Message("user", "the cat"), Message("assistant", "sat on"))


def initialisation_draws(build: Build) -> None:
    """Give any shape, finite numbers, the same from the same generator."""
    for shape in ((7,), (3, 5), (1, 1)):
        values, again = (build()(stream(0, "check"), shape) for _ in range(2))
        assert values.shape == shape, f"shape {values.shape}, expected {shape}"
        assert np.isfinite(values).all(), f"shape {shape}: values that aren't finite"
        assert np.array_equal(values, again), "other values from the same generator"


def optimizer_divides(build: Build) -> None:
    """Change in parts, one by one, what the whole would change at once."""
    whole = _updated(build())
    for count in (2, 3):
        _equal(whole, _updated(build(), count), f"in {count} parts", 1e-5)


def optimizer_repeats(build: Build) -> None:
    """Remember nothing outside the state: a second training gives the same bits."""
    optimizer = build()
    first = _updated(optimizer)
    _equal(first, _updated(optimizer), "in a second training", 0.0)
    _equal(first, _updated(build()), "from another instance", 0.0)


def optimizer_writes(build: Build) -> None:
    """Change parameters and state alone, to finite numbers."""
    params, grads, state = _arenas(build())
    before, kept = params.flat.copy(), grads.flat.copy()
    _update(build(), params, grads, state, 1, 1)
    assert np.array_equal(grads.flat, kept), "the gradients were written to"
    assert np.isfinite(params.flat).all(), "parameters that aren't finite"
    assert not np.array_equal(params.flat, before), "no parameter was changed"
    inside = np.zeros(len(before), bool)
    for at in params.layout.slices.values():
        inside[at] = True
    assert not params.flat[~inside].any(), "the items between arrays didn't stay 0"


def optimizer_owns(build: Build) -> None:
    """Read gradients and change numbers only where `owned` says, if it says so."""
    count = 2
    for index in range(count):
        params, grads, state = _arenas(build())
        owned = build().owned(params.layout, (index, count))
        if owned is None:
            return
        inside = np.zeros(len(params.flat), bool)
        for at in owned:
            inside[at] = True
        flats = {"parameters": params.flat} | {name: arena.flat for name, arena in state.items()}
        before = {name: flat.copy() for name, flat in flats.items()}
        grads.flat[~inside] = np.nan
        _update(build(), params, grads, state, 1, count, [index])
        for name, flat in flats.items():
            assert np.isfinite(flat).all(), f"part {index}: it reads gradients it doesn't own"
            same = np.array_equal(flat[~inside], before[name][~inside])
            assert same, f"part {index}: {name} changed that it doesn't own"


def schedule_is_pure(build: Build) -> None:
    """Return a finite number, not negative, that depends on the step alone."""
    factor = build()
    values = [factor(step) for step in range(STEPS)]
    for step, value in enumerate(values):
        fits = isinstance(value, int | float) and np.isfinite(value) and value >= 0
        assert fits, f"step {step}: {value}, expected a number that is not negative"
    again = [factor(step) for step in reversed(range(STEPS))][::-1]
    assert values == again, "asked again, in another order, it gives other factors"
    assert values == [build()(step) for step in range(STEPS)], "built again, it differs"


def sampler_chooses(build: Build) -> None:
    """Choose for each row an id of the vocabulary, which depends on the row alone."""
    if isinstance(build(), Search):
        return
    vocabulary = SIZES["vocab_size"]
    logits = stream(0, "logits").standard_normal((3, vocabulary)).astype(np.float32) * 3
    kept = logits.copy()
    ids = _chosen(build(), logits, range(3))
    assert np.array_equal(logits, kept), "the logits were written to"
    assert ids.shape == (3,) and ids.dtype.kind == "i", f"{ids!r}: expected three ids"
    assert ((ids >= 0) & (ids < vocabulary)).all(), f"{ids}: must be 0 to {vocabulary - 1}"
    assert np.array_equal(ids, _chosen(build(), logits, range(3))), "the same again differs"
    alone = [int(_chosen(build(), logits[[row]], [row])[0]) for row in range(3)]
    assert ids.tolist() == alone, f"rows together give {ids.tolist()}, one by one {alone}"


def tokenizer_comes_back(build: Build) -> None:
    """Give ids of the vocabulary, the text back, and the same once stored."""
    tokenizer = build().train(TEXTS)
    restored = Tokenizer.from_dict(tokenizer.to_dict())
    for text in TEXTS:
        ids = tokenizer.encode(text)
        outside = [id for id in ids if not 0 <= id < tokenizer.vocab_size]
        assert not outside, f"{text!r}: ids {outside} of a vocabulary of {tokenizer.vocab_size}"
        found = tokenizer.decode(ids)
        assert found == text or not tokenizer.lossless, f"{text!r}: comes back as {found!r}"
        assert restored.encode(text) == ids, f"{text!r}: other ids once it was stored"
    for id in range(tokenizer.vocab_size):
        assert isinstance(tokenizer.token(id), str), f"token({id}) is no text"
    other = build().train(TEXTS[::-1])
    assert other.to_dict() == tokenizer.to_dict(), "it depends on the order of the texts"


def dataset_resumes(build: Build) -> None:
    """Give the same batches each time and from any start, no longer than the model."""
    dataset = build()
    assert len(dataset), "no sample"
    batches = list(islice(dataset.batches(2, 0, 0), 20))
    for batch in batches:
        assert batch.inputs.shape == batch.targets.shape == batch.weights.shape, "shapes differ"
        longest = SIZES["max_seq_len"]
        assert batch.inputs.shape[1] <= longest, f"{batch.inputs.shape[1]} tokens, over {longest}"
    _same_batches(batches, dataset.batches(2, 0, 0), "the same epoch again")
    _same_batches(batches[1:], dataset.batches(2, 0, 0, 1), "from the second batch on")
    assert dataset.sha256 == build().sha256, "built again, it has another hash"


def template_holds_the_chat(build: Build) -> None:
    """Write all messages, and let what is to be answered be the beginning."""
    template = build()
    text, asked = template.text(_CHAT), template.text(_CHAT[:1], reply=True)
    for message in _CHAT:
        assert message.content in text, f"{message.content!r} isn't in {text!r}"
    assert text.startswith(asked), f"{text!r} doesn't begin with {asked!r}"
    assert any(part.answer for part in template.fragments(_CHAT)), "nothing is to be answered"


PARTS: Mapping[str, Sequence[Callable[[Build], None]]] = {
    "initialisation": (initialisation_draws,),
    "optimizer": (optimizer_writes, optimizer_divides, optimizer_owns, optimizer_repeats),
    "schedule": (schedule_is_pure,),
    "sampler": (sampler_chooses,),
    "tokenizer": (tokenizer_comes_back,),
    "dataset": (dataset_resumes,),
    "template": (template_holds_the_chat,),
}


def _arenas(optimizer: Any) -> Any:
    """Return parameters, gradients and state of a small network."""
    layout = Layout(build_stack({"norm": "layer_norm", "linear": "linear"}, embedding_dim=5))
    grads, rng = layout.zeros(), stream(0, "gradients")
    for _, view in grads.items():
        view[...] = rng.standard_normal(view.shape)
    return layout.init(0), grads, {name: layout.zeros() for name in optimizer.state_names}


def _update(
    optimizer: Any,
    params: Any,
    grads: Any,
    state: Any,
    step: int,
    count: int,
    chosen: Sequence[int] | None = None,
) -> None:
    for index in range(count) if chosen is None else chosen:
        ctx = Context(NUMPY)
        sizes = {"lr": 0.01, "step": step, "scale": 0.5, "part": (index, count)}
        optimizer.update(params, grads, state, ctx=ctx, **sizes)


def _updated(optimizer: Any, count: int = 1) -> dict[str, np.ndarray]:
    params, grads, state = _arenas(optimizer)
    for step in (1, 2, 3):
        _update(optimizer, params, grads, state, step, count)
    return {"parameters": params.flat} | {name: arena.flat for name, arena in state.items()}


def _equal(a: Any, b: Any, when: str, tolerance: float) -> None:
    for name, value in a.items():
        error = float(np.abs(value - b[name]).max(initial=0))
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        assert error <= tolerance * scale, f"{name}: off by {error:.3g} {when}"


def _chosen(sampler: Any, logits: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    of_rows = Rows(
        [[1, 2]] * len(rows), [[3]] * len(rows), rngs=[stream(0, "check", row) for row in rows]
    )
    return np.asarray(sampler.choose(logits, of_rows))


def _same_batches(wanted: Sequence[Batch], found: Iterator[Batch], when: str) -> None:
    others = list(islice(found, len(wanted)))
    assert len(others) == len(wanted), f"{when}: {len(others)} batches instead of {len(wanted)}"
    for number, (one, other) in enumerate(zip(wanted, others, strict=True)):
        for name, array in one.arrays().items():
            other_array = other.arrays().get(name)
            assert np.array_equal(array, other_array), f"{when}: batch {number}, {name} differ"  # pyright: ignore[reportArgumentType]
