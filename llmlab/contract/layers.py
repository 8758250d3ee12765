"""The contract of a layer, as checks that any network can be held to.

A check takes a `Case`: a stack (most often of one layer), a shape, and what the context is to
hold. It raises an AssertionError that names the tensor and the numbers.
"""

from dataclasses import replace

import numpy as np

from llmlab.contract.bench import Bench, Case, arrays, assert_gradients, collect, difference, same
from llmlab.generate.kv_cache import KVCache
from llmlab.streams import stream
from llmlab.train.batch_shards import unwritten


def check_shapes(case: Case) -> None:
    """Return as many rows as come in, and a gradient of the input's shape."""
    bench = Bench(case)
    ctx, rows = bench.context(), case.batch * case.time
    y, cache = bench.forward(ctx)
    assert y.ndim == 2 and len(y) == rows, f"output: shape {y.shape}, expected ({rows}, width)"
    grads = bench.layout.zeros(bench.dtype)
    dx = bench.stack.backward(bench.params.tree, grads.tree, bench.dy, cache, ctx)
    assert case.ids or dx.shape == bench.x.shape, (
        f"the input's gradient: shape {getattr(dx, 'shape', dx)}, expected {bench.x.shape}"
    )


def check_gradients(case: Case) -> None:
    """Give the gradients that finite differences give, of the input and each parameter."""
    bench = Bench(case)
    found = bench.run()
    del found["output"]
    ctx = bench.context()
    tensors = dict(bench.params.items()) | ({} if case.ids else {"input": bench.x})
    wanted = {}
    for name, array in tensors.items():
        numeric = np.empty(array.shape)
        for at in np.ndindex(array.shape):
            numeric[at] = difference(lambda: bench.loss(ctx), array, at)
        wanted[name] = numeric
    assert_gradients(found, wanted)


def check_adds(case: Case) -> None:
    """Add to what is in g; overwrite what is marked as fresh, and leave none of it out."""
    bench = Bench(case)
    plain = bench.run()
    filled = bench.layout.zeros(bench.dtype)
    before = {}
    for name, view in filled.items():
        view[...] = stream(1, name).standard_normal(view.shape)
        before[name] = view.copy()
    added = bench.run(grads=filled)
    same({n: added[n] - before[n] for n in before}, {n: plain[n] for n in before}, 1e-12)
    filled.flat.fill(np.nan)
    ctx = bench.context()
    ctx.fresh = set(filled.ids)
    found = bench.run(ctx, filled)
    missing = unwritten(filled, ctx.fresh)
    assert not missing, missing
    same(found, plain, 1e-12)


def check_frozen(case: Case) -> None:
    """Return the same gradient of the input where no parameter's is wanted."""
    bench = Bench(case)
    plain, grads, ctx = bench.run(), bench.layout.zeros(bench.dtype), bench.context()
    ctx.unwanted = grads.ids
    found = bench.run(ctx, grads)
    same(
        {n: plain[n] for n in plain if n not in grads.views},
        {n: found[n] for n in found if n not in grads.views},
    )


def check_dtype(case: Case) -> None:
    """Keep float32 in outputs, in gradients and in the cache."""
    bench = Bench(case, np.float32)
    ctx = bench.context()
    y, cache = bench.forward(ctx)
    grads = bench.layout.zeros(np.float32)
    dx = bench.stack.backward(bench.params.tree, grads.tree, bench.dy, cache, ctx)
    kept = [array for array in arrays(cache) if array.dtype.kind == "f"]
    named = [("output", y), *([] if case.ids else [("input's gradient", dx)])]
    for name, array in [*named, *(("array in the cache", array) for array in kept)]:
        assert array.dtype == np.float32, f"{name}: {array.dtype}, expected float32"
    double = Bench(case)
    double.params.flat[:] = bench.params.flat
    double.x, double.dy = bench.x.astype(double.x.dtype), bench.dy.astype(np.float64)
    if not case.random:  # the two dtypes draw different masks
        same(collect(case, y, dx, grads), double.run(), 2e-5)


def check_untouched(case: Case) -> None:
    """Write to nothing that is given, and return nobody else's memory."""
    bench = Bench(case)
    kept = bench.x.copy(), bench.params.flat.copy(), bench.dy.copy()
    frozen = [bench.x, bench.dy, *bench.params.views.values()]
    for array in frozen:
        array.flags.writeable = False
    ctx = bench.context()
    grads = bench.layout.zeros(bench.dtype)
    for _ in range(2):  # the second time in the workspace's own buffer
        y, cache = bench.forward(ctx)
        output = y.copy()
        dx = bench.stack.backward(bench.params.tree, grads.tree, bench.dy, cache, ctx)
        for array in frozen:
            assert not np.shares_memory(y, array), "the output lies in memory that was given"
            fresh = case.ids or not np.shares_memory(dx, array)
            assert fresh, "the input's gradient lies in memory that was given"
        assert np.array_equal(y, output), "backward wrote to the output"
        once = dx.copy()
        again = bench.stack.backward(bench.params.tree, grads.tree, bench.dy, cache, ctx)
        assert np.array_equal(once, again), "backward wrote to its cache"
    for name, before, after in zip(
        ("the input", "the parameters", "dy"),
        kept,
        (bench.x, bench.params.flat, bench.dy),
        strict=True,
    ):
        assert np.array_equal(before, after), f"{name}: written to"


def check_rows(case: Case) -> None:
    """Give for a batch what its rows give one by one."""
    bench = Bench(case)
    whole = bench.run()
    single = replace(case, batch=1)
    parts, total = [], {name: 0.0 for name in bench.params}
    for row in range(case.batch):
        ctx, grads = bench.context(), bench.layout.zeros(bench.dtype)
        bench.begin(ctx, slice(row, row + 1))
        rows = slice(row * case.time, (row + 1) * case.time)
        y, cache = bench.stack.forward(bench.params.tree, bench.x[rows], ctx)
        y = y.copy()
        dx = bench.stack.backward(bench.params.tree, grads.tree, bench.dy[rows], cache, ctx)
        part = collect(single, y, dx, grads)
        parts.append(part)
        total = {name: total[name] + part[name] for name in total}
    joined = {k: np.concatenate([p[k] for p in parts]) for k in whole if k not in total}
    same(whole, joined | total, 1e-12)


def check_repeats(case: Case) -> None:
    """Give the same bits again, also in a context that was used for something else."""
    bench = Bench(case)
    ctx = bench.context()
    first, again = bench.run(ctx), bench.run(ctx)
    same(first, again)
    ctx.begin(0, 0)
    ctx.empty((1000,)).fill(np.nan)
    bench.run(ctx)
    ctx.workspace._buffer.fill(0xFF)  # NaN: nothing may be read before it is written
    same(first, bench.run(ctx))
    same(first, bench.run())


def check_interleaved(case: Case) -> None:
    """Keep two passes at a time, each with its context, apart."""
    one = Bench(case)
    two = Bench(replace(case, seed=case.seed + 1, stack=one.stack))
    alone = one.run(), two.run()
    contexts = one.context(), two.context()
    grads = tuple(bench.layout.zeros(bench.dtype) for bench in (one, two))
    passes = [bench.forward(ctx) for bench, ctx in zip((one, two), contexts, strict=True)]
    for i, bench in enumerate((one, two)):
        y, cache = passes[i]
        dx = bench.stack.backward(bench.params.tree, grads[i].tree, bench.dy, cache, contexts[i])
        same(alone[i], collect(bench.case, y, dx, grads[i]))


def check_counts(case: Case) -> None:
    """Count operations in whole numbers that grow with the batch."""
    stack = case.build()
    value = stack.flops(case.batch, case.time)
    assert isinstance(value, int) and value >= 0
    assert stack.flops(3 * case.batch, case.time) == 3 * value


def check_draws(case: Case) -> None:
    """Draw random numbers from the generators that are given, for first values too."""
    bench = Bench(case)
    before = str(np.random.get_state())  # noqa: NPY002
    first, again = (dict(bench.layout.init(0, bench.dtype).items()) for _ in range(2))
    bench.run()
    for name, values in first.items():
        assert np.array_equal(values, again[name]), f"{name}: first values differ for one seed"
    after = str(np.random.get_state())  # noqa: NPY002
    assert before == after, "NumPy's global generator is used; take ctx.rng, or that of init"


def check_future(case: Case) -> None:
    """Let no token see a later one, another row or another sample packed into its row."""
    bench = Bench(case)
    ctx = bench.context()
    y = bench.forward(ctx)[0].copy()
    at = case.time - 1
    if case.segments:  # the last of the first sample
        at = int(np.count_nonzero(bench.segments[0] == 0)) - 1
    x = bench.x.copy()
    x[at] = (x[at] + 1) % case.sizes()["vocab_size"] if case.ids else x[at] + 1
    moved = np.abs(bench.forward(ctx, x)[0] - y).max(axis=1) > 1e-12 * max(1.0, np.abs(y).max())
    moved[at] = False
    assert not moved.any(), (
        f"token {at} of row 0 is seen by token {np.argmax(moved) % case.time} of row "
        f"{np.argmax(moved) // case.time}, which must not"
    )


def check_decoding(case: Case) -> None:
    """Give token by token, with a cache, what the whole text gives."""
    if case.random or case.segments or case.positions:
        return  # not while decoding
    bench = Bench(case)
    whole = bench.forward(bench.context())[0].reshape(case.batch, case.time, -1).copy()
    ctx, cache = bench.context(), KVCache(bench.stack, case.batch, case.time, bench.dtype)
    x = bench.x.reshape(case.batch, case.time, -1)
    for at in range(case.time):
        cache.prepare(1)
        ctx.begin(case.batch, 1, kv_cache=cache)
        part = x[:, at, 0] if case.ids else x[:, at]
        y, _ = bench.stack.forward(bench.params.tree, np.ascontiguousarray(part), ctx)
        same({f"output at token {at}": y}, {f"output at token {at}": whole[:, at]}, 1e-9)
        cache.advance(1)


CHECKS = (
    check_shapes,
    check_untouched,
    check_repeats,
    check_draws,
    check_gradients,
    check_adds,
    check_frozen,
    check_dtype,
    check_rows,
    check_future,
    check_decoding,
    check_interleaved,
    check_counts,
)
