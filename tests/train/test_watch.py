"""Watching a training: planted faults are found, sound runs are left in peace, rows are exact."""

import numpy as np
import pytest
from trainer_lab import batch
from watch_lab import STEPS, Scaled, Untouched, layer_of, rows_of, specs, watched

from llmlab.layers import build_stack
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.train.array_statistics import SHOWN, norm
from llmlab.train.findings import Facts, exploded, facts_of, find
from llmlab.train.fit import Callback, Progress
from llmlab.train.probe import Probe, probe_of
from llmlab.train.rows import rows_until
from llmlab.train.trackers import NoTracker

SHORT = 20


def kinds(folder, stack, clip_norm=5.0):
    found = find(rows_of(folder), facts_of(stack, clip_norm), rows_of(folder, "metrics.jsonl"))
    assert all(each.key and each.sentence == f"{each.text}; try {each.key}" for each in found)
    return [each.kind for each in found]


def post_norm(blocks):
    """As RustGPT's, no final norm is needed."""
    spec = specs(norm="post_norm", num_blocks=blocks)
    del spec["norm"]
    return spec


def llama():
    spec = specs()
    del spec["positions"]
    spec["norm"] = {"type": "rms_norm"}
    for part in spec["blocks"]["layers"].values():
        part["norm"] = {"type": "rms_norm"}
    spec["blocks"]["layers"]["attention"]["layer"]["positions"] = "rope"
    gated = {"type": "gated_feed_forward", "hidden_dim": 32}
    spec["blocks"]["layers"]["feed_forward"]["layer"] = gated
    return spec


def without_final_norm():
    spec = specs()
    del spec["norm"]
    return spec


def scaled(part, factor):
    def change(stack, params):
        for name, view in params.items():
            if part in name:
                view *= factor

    return change


def other_map(kind):
    def change(stack, params):
        layer_of(stack, 0, "feed_forward").up = kind(16, 32)

    return change


def silence(stack, params):
    for number in range(2):
        params[f"blocks.{number}.feed_forward.up.bias"][...] = -8


SOUND = {
    "gpt": (specs(), {}),
    "llama": (llama(), {}),
    "post_norm": (post_norm(2), {"warmup": 0, "lr": 1e-3}),
}
FAULTS = {
    "large_updates": (specs(), {"lr": 1.0}),
    "no_warmup": (post_norm(6), {"lr": 0.03, "warmup": 0, "steps": STEPS}),
    "dead_units": (specs(), {"change": silence}),
    "frozen_layer": (specs(), {"change": other_map(Untouched)}),
    "no_final_norm": (without_final_norm(), {}),
    "overflow": (specs(), {"change": other_map(Scaled)}),
    "saturated_attention": (specs(), {"change": scaled("qkv.weight", 8)}),
    "init_scale": (specs(), {"change": scaled("output.weight", 10)}),
}


@pytest.mark.every_day(1)
@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_in_a_sound_run(name, tmp_path, caplog):
    spec, options = SOUND[name]
    stack = watched(tmp_path, spec, **options)
    assert kinds(tmp_path, stack) == []
    assert "watch:" not in caplog.text
    rows = rows_of(tmp_path, "metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.8  # it does learn


@pytest.mark.every_day(4)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(kind, tmp_path, caplog):
    spec, options = FAULTS[kind]
    stack = watched(tmp_path, spec, **{"steps": SHORT, **options})
    assert kinds(tmp_path, stack) == [kind]
    assert caplog.text.count("watch: ") == 1


def test_weights_that_begin_too_small_or_too_large_are_named(tmp_path):
    for factor, word in ((1e-4, "too small"), (30, "too large")):
        folder = tmp_path / word
        stack = watched(folder, specs(), steps=10, change=scaled("blocks", factor))
        (first, *_) = find(rows_of(folder), facts_of(stack))
        assert first.kind == "init_scale" and word in first.text


def test_what_is_named_has_the_layer_and_the_key(tmp_path):
    stack = watched(tmp_path, specs(), steps=5, change=other_map(Scaled))
    (found,) = find(rows_of(tmp_path), facts_of(stack), rows_of(tmp_path, "metrics.jsonl"))
    assert "blocks.0.feed_forward.up" in found.text and "5 steps" in found.text
    assert found.key.startswith("model.stack.blocks.layers.feed_forward.layer.init")


def test_without_rows_of_watch_the_losses_are_judged():
    losses = [4.0, 3.5, 3.0, 2.8, 2.7, 2.6, 2.6, 2.5, 2.5, 2.5, 2.5, 9.0, 2.5, 2.4]
    metrics = [{"step": n, "loss": loss, "lr": 0.1} for n, loss in enumerate(losses, 1)]
    assert [each.kind for each in find([], Facts(), metrics)] == ["loss_spike"]
    metrics = [{"step": n, "loss": 1.0 + n, "lr": 0.1} for n in range(20)]
    assert [each.kind for each in find([], Facts(), metrics)] == ["rising_loss"]
    assert find([], Facts(), []) == []


def test_a_gradient_that_is_always_clipped_and_far_gradients_are_named():
    array = {"weight": [1.0], "update": [1e-3], "ratio": 1e-3}
    rows = [
        {
            "step": step,
            "loss": 2.0,
            "grad_norm": 50.0,
            "clipped": step,
            "arrays": {
                "blocks.0.up.weight": {**array, "gradient": [1e-6]},
                "blocks.1.up.weight": {**array, "gradient": [1.0]},
            },
        }
        for step in (10, 20)
    ]
    facts = Facts(clip_norm=5.0, widths={"blocks.0.up.weight": 4, "blocks.1.up.weight": 4})
    found = {each.kind: each for each in find(rows, facts)}
    assert set(found) == {"always_clipped", "far_gradients"}
    assert found["always_clipped"].key.startswith("clip_norm=100")
    assert "vanish" in found["far_gradients"].text


def losing(losses, lr=1e4):
    return [{"step": n, "loss": loss, "lr": lr} for n, loss in enumerate(losses, 1)]


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("losses", [[7.2, 30.0, 72.6], [7.6, *[3e10] * 18, None]])
def test_an_exploding_loss_is_named_with_a_safe_lr(losses, post_norm):
    (found,) = find([], Facts(post_norm=post_norm), losing(losses))
    assert found.text.startswith(f"the loss exploded from {losses[0]} to ")
    assert found.key.startswith("lr=0.001")
    assert (found.kind == "overflow") == (None in losses)
    alone = exploded(losing(losses))
    assert alone.sentence in (found.sentence, f"{found.text.split(';')[0]}; try lr=0.001")
    assert exploded(losing([7.2, 8.0, 9.0, 72.6, 3.0, 3.0, 3.0])) is None
    assert exploded(losing([7.2])) is exploded([]) is None


def test_watched_too_large_updates_say_that_the_loss_exploded(tmp_path):
    stack = watched(tmp_path, specs(), steps=12, lr=1e3)
    (found,) = find(rows_of(tmp_path), facts_of(stack), rows_of(tmp_path, "metrics.jsonl"))
    assert found.text.startswith("the loss exploded from ") and "lr=" in found.key
    assert "; the median update is " in found.text and " % of the weights' size" in found.text


@pytest.mark.parametrize(("steps", "warmup"), [(2, 1), (20, 4), (600, 100)])
def test_the_warm_up_that_is_advised_fits_the_run(steps, warmup):
    losses = [3.0, 4.5, *[3.0] * steps][:steps]
    (found, *_) = find([], Facts(post_norm=True), losing(losses, 0.03))
    assert (found.kind, found.key) == ("no_warmup", f"schedule.warmup_steps={warmup}")


@pytest.mark.parametrize(
    ("steps", "norm", "named"),
    [(199, 24.0, False), (199, 26.0, True), (200, 11.0, True), (200, 9.0, False)],
)
def test_a_short_run_may_be_clipped_all_the_time(steps, norm, named):
    row = {"step": steps, "loss": 2.0, "grad_norm": norm, "clipped": steps, "arrays": {}}
    found = find([row], Facts(clip_norm=5.0), losing([2.0] * 20, 1e-3))
    assert [each.kind for each in found] == ["always_clipped"] * named
    assert all(f"the gradient's median norm is {norm:g}" in each.text for each in found)


# rows


class Recorder(Callback):
    """Keep what watch should have seen."""

    def __init__(self):
        self.trainer, self.seen, self.before = None, {}, None

    def on_start(self, progress):
        self.before = self.trainer().params.flat.copy()

    def on_step(self, progress, result, row):
        trainer = self.trainer()
        self.seen[progress.step] = (
            self.before,
            trainer.params.flat.copy(),
            trainer.grads.flat.copy(),
            result.grad_norm,
        )
        self.before = trainer.params.flat.copy()


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_those_of_the_arrays(threads, tmp_path):
    recorder = Recorder()
    held = {}
    recorder.trainer = lambda: held["trainer"]
    prepare = lambda trainer: held.update(trainer=trainer)  # noqa: E731
    stack = watched(
        tmp_path, specs(), every=2, steps=4, threads=threads, prepare=prepare,
        callbacks={"recorder": recorder},
    )  # fmt: skip
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 4]
    layout = held["trainer"].layout
    for row in rows:
        before, after, gradient, whole = recorder.seen[row["step"]]
        assert set(row["arrays"]) == set(layout.slices)
        total = 0.0
        for name, own in row["arrays"].items():
            place = layout.slices[name]
            kinds = {"weight": after, "gradient": gradient, "update": after - before}
            for kind, flat in kinds.items():
                x = flat[place].astype(np.float64)
                wanted = [np.linalg.norm(x), x.mean(), x.min(), x.max()]
                assert own[kind] == pytest.approx(wanted, rel=1e-4, abs=1e-7), (name, kind)
                assert len(own[kind]) == len(SHOWN)
            size = np.linalg.norm(before[place].astype(np.float64))
            if size:
                change = np.linalg.norm((after - before)[place].astype(np.float64))
                assert own["ratio"] == pytest.approx(change / size, rel=1e-4)
            else:
                assert own["ratio"] is None
            total += own["gradient"][0] ** 2
        assert total**0.5 == pytest.approx(whole, rel=1e-4)  # of all workers, before clipping
        assert list(row["stream"]) == [path for path, _ in stack.leaves()]


@pytest.mark.every_day(1)
@pytest.mark.parametrize("stop", [3, 5, 6])
def test_a_continued_run_has_the_same_rows(stop, tmp_path):
    watched(tmp_path / "whole", specs(), every=3, steps=9)
    kept = {}

    class Keep(Callback):
        def on_row(self, progress, result, row):
            if progress.step == stop:
                arrays = {n: a.copy() for n, a in kept["trainer"].arrays().items()}
                kept["state"] = (arrays, progress.to_dict())

    def first(trainer):
        kept["trainer"] = trainer

    # Killed at 7, with a checkpoint of `stop`, and a torn row.
    folder = tmp_path / "again"
    watched(folder, specs(), every=3, steps=7, prepare=first, callbacks={"keep": Keep()})
    with (folder / "watch.jsonl").open("a") as file:
        file.write('{"step": 9, "los')
    arrays, fields = kept["state"]
    progress = Progress(**fields)
    load = lambda trainer: trainer.load(arrays, progress.step, progress.updates)  # noqa: E731
    watched(folder, specs(), every=3, steps=9, progress=progress, prepare=load)
    whole = (tmp_path / "whole" / "watch.jsonl").read_bytes()
    assert (folder / "watch.jsonl").read_bytes() == whole
    assert rows_of(folder)[-1]["clipped"] == progress.clipped > 0


def test_a_process_without_a_step_sends_no_picture(tmp_path):
    """It would be of a step that was sent before: TensorBoard would hide that step's numbers."""

    class Pictures(NoTracker):
        def __init__(self):
            self.steps = []

        def picture(self, step, name, pixels):
            self.steps.append(step)

    pictures = Pictures()
    watched(tmp_path, specs(), every=3, steps=9, tracker=pictures)
    ended = Progress(step=9, updates=9, epoch=1, index=1, tokens=1)
    watched(tmp_path, specs(), every=3, steps=9, tracker=pictures, progress=ended)
    assert pictures.steps == [9]


def test_where_rows_go_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert rows_until(path, 9) == 0
    path.write_text('{"step": 1}\n{"step": 5}\nnonsense\n{"step": 6}\n')
    assert [rows_until(path, step) for step in (0, 1, 4, 5, 9)] == [0, 12, 12, 24, 24]


def test_watching_changes_no_number(tmp_path):
    watched(tmp_path / "a", specs(), every=1, steps=6)
    watched(tmp_path / "b", specs(), every=1000, steps=6)
    assert rows_of(tmp_path / "a", "metrics.jsonl") == rows_of(tmp_path / "b", "metrics.jsonl")


# the probe


def small_probe(spec):
    stack = build_stack(spec, vocab_size=16, embedding_dim=16, max_seq_len=16, num_blocks=2)
    return Probe(Network(stack, Layout(stack).init(0), 16))


def chain_batch(segments=False):
    return batch([9, 4, 12], segments=segments, time=14)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("window", [None, 4])
def test_entropy_is_1_where_all_is_seen_alike(segments, window):
    spec = specs()
    attention = spec["blocks"]["layers"]["attention"]["layer"]
    attention |= {"init": "zeros", "output_init": "he", "window": window}
    found = small_probe(spec).look(chain_batch(segments))
    for heads in found["entropy"].values():
        assert heads == pytest.approx([1, 1], abs=1e-5)


def test_the_stream_is_its_root_mean_square_without_padding():
    probe, batch = small_probe(specs()), chain_batch()
    found = probe.look(batch)
    seen = {}

    def keep(path, layer, y, cache):
        seen[path] = y.copy()

    network = probe._network
    with network.listening(post=keep):
        network.forward(batch.inputs)
    real = np.arange(14) < np.array([9, 4, 12])[:, None]
    for path, value in found["stream"].items():
        wanted = np.sqrt(np.mean(seen[path][real.reshape(-1)].astype(np.float64) ** 2))
        assert value == pytest.approx(wanted, rel=1e-4), path


def test_a_probe_is_the_beginning_of_the_batches():
    assert probe_of([]) is None
    assert probe_of([batch([40] * 20, time=40)]).inputs.shape == (3, 40)
    assert probe_of([batch([600, 600], time=600)]).inputs.shape == (1, 128)
    short = [batch([3], seed=1), batch([5], seed=2), batch([2], seed=3)]
    found = probe_of(short)
    assert found.inputs.shape == (3, 5)
    for row, own in enumerate(short):
        assert (found.inputs[row, : own.inputs.shape[1]] == own.inputs[0]).all()
    assert found.weights.sum() == 10


def test_a_norm_beyond_the_range_of_float32_is_one():
    assert norm(np.full(4, 1e30, np.float32)) == pytest.approx(2e30, rel=1e-6)
    assert norm(np.full(4, 1e-30, np.float32)) == pytest.approx(2e-30, rel=1e-6)
