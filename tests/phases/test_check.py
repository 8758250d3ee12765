"""Phase `check`: what keeps the contract passes, and each breach is found and named."""

import numpy as np
import pytest
from new_process import new_process

from llmlab.batch import Batch
from llmlab.cli import main
from llmlab.config.specs import registries
from llmlab.contract.trial import can_be_tried, trial
from llmlab.generate.samplers import SAMPLERS, Sampler
from llmlab.layers import INITIALISATIONS, LAYERS, Layer
from llmlab.layers.linear import Linear
from llmlab.optim import OPTIMIZERS, SCHEDULES, Optimizer
from llmlab.text import DATASETS, TEMPLATES, TOKENIZERS, Template
from llmlab.text.tokenizers.char import CharTokenizer

GIVEN = ("pretrained", "chats", "tokens", "jinja")  # files in a form that no probe can guess
THINGS = [
    pytest.param(registry, name, id=f"{kind}-{name}")
    for kind, registry in registries().items()
    if can_be_tried(kind)
    for name in registry.names()
    if name not in GIVEN and (kind != "layer" or name in ("linear", "tied_output_projection"))
]


def failures(registry, name, given=None):
    return {o.check: o.problem for o in trial(registry, name, given or {}, "check") if o.problem}


@pytest.mark.every_day(5)
@pytest.mark.parametrize(("registry", "name"), THINGS)
def test_what_llmlab_has_passes(registry, name):
    if name == "bpe":
        pytest.importorskip("tokenizers")
    outcomes = list(trial(registry, name, {}, f"check.arguments.{name}"))
    assert outcomes and not [each for each in outcomes if each.problem]


class Shorter(Linear):
    def forward(self, p, x, ctx):
        y, cache = super().forward(p, x, ctx)
        return y[:-1], cache


class Doubles(Linear):
    def forward(self, p, x, ctx):
        y, cache = super().forward(p, x, ctx)
        return y.astype(np.float64), cache


class Writes(Linear):
    def forward(self, p, x, ctx):
        x *= 2
        return super().forward(p, x, ctx)


class GlobalNoise(Linear):
    def forward(self, p, x, ctx):
        y, cache = super().forward(p, x, ctx)
        y += np.random.rand(*y.shape)  # noqa: NPY002
        return y, cache


class OwnNoise(Linear):
    def forward(self, p, x, ctx):
        y, cache = super().forward(p, x, ctx)
        y += np.random.default_rng(0).random(y.shape)
        return y, cache


class Remembers(Linear):
    count = 0

    def forward(self, p, x, ctx):
        self.count += 1
        y, cache = super().forward(p, x, ctx)
        y += self.count
        return y, cache


class Wrong(Linear):
    def backward(self, p, g, dy, cache, ctx):
        return 1.01 * super().backward(p, g, dy, cache, ctx)


class Missing(Linear):
    def backward(self, p, g, dy, cache, ctx):
        dx = ctx.empty((len(dy), len(p["weight"])))
        return np.matmul(dy, p["weight"].T, out=dx)


class Sees(Layer):
    """Adds the mean over time: each token sees those to come."""

    def forward(self, p, x, ctx):
        rows = x.reshape(ctx.batch, ctx.time, -1)
        return (rows + rows.mean(1, keepdims=True)).reshape(x.shape), None

    def backward(self, p, g, dy, cache, ctx):
        return self.forward(p, dy, ctx)[0]


class OneToken(Linear):
    def forward(self, p, x, ctx):
        if ctx.time == 1:
            raise IndexError("no second token")
        return super().forward(p, x, ctx)


class AcrossRows(Linear):
    def forward(self, p, x, ctx):
        y, cache = super().forward(p, x, ctx)
        y -= x.mean()
        return y, cache


@pytest.mark.every_day(3)
@pytest.mark.parametrize(
    ("broken", "check", "said"),
    [
        (Shorter, "shapes", "output: shape (7, 8), expected (8, width)"),
        (Doubles, "dtype", "output: float64, expected float32"),
        (Writes, "untouched", "writes to what it is given"),
        (GlobalNoise, "forward", "NumPy's global generator is used"),
        (OwnNoise, "rows", "output: off by"),
        (Remembers, "repeats", "output: off by 1"),
        (Wrong, "gradients", "gradient of input: off by"),
        (Missing, "adds", "layer.weight, layer.bias: backward wrote no gradient"),
        (Missing, "gradients", "gradient of layer.weight: off by"),
        (Sees, "future", "token 3 of row 0 is seen by token 0 of row 0"),
        (Sees, "decoding", "output at token 0: off by"),
        (OneToken, "shapes", "IndexError: no second token"),
        (AcrossRows, "rows", "output: off by"),
        (AcrossRows, "future", "token 3 of row 0 is seen by"),
    ],
)
def test_a_breach_is_found(monkeypatch, broken, check, said):
    monkeypatch.setattr(LAYERS, "_factories", {**LAYERS._factories, "my_layer": broken})
    found = failures(LAYERS, "my_layer")
    assert said in found[check], found


def pure_in_name(total_steps: int):
    seen: list[int] = []
    return lambda step: seen.append(step) or 1 / len(seen)


def unseeded():
    return lambda rng, shape: np.random.default_rng().standard_normal(shape)


class Impatient(Optimizer):
    """Counts by itself, and scales the gradients where they lie."""

    count = 0

    def update(self, params, grads, state, *, lr, step, scale, part, ctx):
        """Update all, whatever the part."""
        self.count += 1
        grads.flat[:] *= scale
        params.flat[:] -= lr * grads.flat / self.count


class Neighbours(Sampler):
    """Looks at the other rows, too."""

    def choose(self, logits, rows):
        """Return the best of the mean."""
        return np.full(len(logits), int(np.argmax(logits.mean(0))))


class Swallows(CharTokenizer):
    """Loses the last letter."""

    def train(self, texts):
        """Return one of this kind."""
        return Swallows(super().train(texts).arguments()["characters"])

    def encode(self, text):
        """Return too few ids."""
        return super().encode(text)[:-1]


class Restless:
    """Batches that are new each time."""

    sha256 = "0"

    def __init__(self, path: str, tokenizer, max_seq_len):
        self.count = 0

    def __len__(self):
        return 1

    def batches(self, batch_size, seed, epoch, start=0):
        """Yield a batch with another id."""
        self.count += 1
        ids = np.full((1, 3), self.count)
        yield Batch(ids, ids, np.ones((1, 3), np.float32))


class Silent(Template):
    """Writes nothing."""

    def fragments(self, messages, reply=False):
        """Return no fragments."""
        return []


@pytest.mark.parametrize(
    ("registry", "broken", "check", "said"),
    [
        (SCHEDULES, pure_in_name, "is_pure", "in another order, it gives other factors"),
        (INITIALISATIONS, unseeded, "draws", "other values from the same generator"),
        (OPTIMIZERS, Impatient, "writes", "the gradients were written to"),
        (OPTIMIZERS, Impatient, "divides", "parameters: off by"),
        (OPTIMIZERS, Impatient, "repeats", "in a second training"),
        (SAMPLERS, Neighbours, "chooses", "rows together give"),
        (TOKENIZERS, Swallows, "comes_back", "comes back as 'the cat sat on the ma'"),
        (DATASETS, Restless, "resumes", "the same epoch again: batch 0, inputs differ"),
        (TEMPLATES, Silent, "holds_the_chat", "'the cat' isn't in ''"),
    ],
)
def test_a_breach_of_another_kind_is_found(monkeypatch, registry, broken, check, said):
    monkeypatch.setattr(registry, "_factories", {**registry._factories, "my_part": broken})
    found = failures(registry, "my_part")
    assert said in found[check], found


PLUGIN = """
from collections.abc import Mapping
from llmlab.layers import LAYERS, Layer, Stack
from llmlab.layers.linear import Linear
from llmlab.train.fit import CALLBACKS, Callback

@LAYERS.register("my_pair")
class Pair(Stack):
    def __init__(self, left: Layer, others: Mapping[str, Layer], power: float):
        super().__init__({"left": left, **others})
        assert power == 0.5

@LAYERS.register("my_named")
def named(embedding_dim: int, mode: str) -> Layer:
    return Linear(embedding_dim, bias=mode == "biased")

@CALLBACKS.register("my_watch")
class Watch(Callback):
    pass
"""


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new_process(monkeypatch)
    (tmp_path / "my_parts.py").write_text(PLUGIN)
    (tmp_path / "my_nothing.py").write_text("")

    def call(*argv):
        capsys.readouterr()
        code = main(["phase=check", *argv])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return call


def test_the_phase_prints_what_each_check_says(lab, tmp_path):
    code, out, err = lab("plugins=my_parts.py", "check.arguments.my_named.mode=biased")
    assert (code, err) == (0, "")
    sections = out.split("layer ")
    assert [part.split()[0] for part in sections[1:]] == ["my_named", "my_pair"]
    assert all(part.count("fine") == 13 for part in sections[1:]), out
    assert "callback my_watch\n  not checked" in out
    assert not (tmp_path / "runs").exists()


BAD = """
class Bad(Linear):
    def backward(self, p, g, dy, cache, ctx):
        return super().backward(p, g, dy, cache, ctx) + self.nothing
"""


@pytest.mark.slow
def test_what_fails_is_named_with_its_line(lab, tmp_path):
    text = PLUGIN.replace("return Linear(", "return Bad(") + BAD
    (tmp_path / "my_parts.py").write_text(text)
    line = text.split("self.nothing")[0].count("\n") + 1
    code, out, err = lab("plugins=my_parts.py", "check.arguments={my_named: {mode: plain}}")
    assert code == 2
    assert err == "error: 1 check failed: layer my_named, shapes\n"
    assert f"  shapes           my_parts.py:{line}: AttributeError: 'Bad' object has no" in out


@pytest.mark.every_day(2)
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "phase=check: nothing to check; name your modules: plugins=my_layers.py"),
        (["plugins=my_nothing.py"], "my_nothing.py: nothing is registered there"),
        (["plugins=my_parts.py"], "1 check failed: layer my_named, arguments"),
        (
            ["plugins=my_parts.py", "check.arguments.my_name.mode=a"],
            "check.arguments.my_name: nothing is registered as 'my_name' (did you mean 'my_named'",
        ),
        (
            ["plugins=my_parts.py", "check.arguments.my_named=3"],
            "check.arguments.my_named=3: expected a mapping of arguments",
        ),
        (["plugins=my_parts.py", "check.argument.my_named.mode=a"], "did you mean 'arguments'"),
    ],
)
def test_what_cannot_be_checked_is_one_line(lab, argv, said):
    code, _, err = lab(*argv)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert said in err


@pytest.mark.slow
def test_arguments_that_are_missing_or_wrong_are_named(lab):
    _, out, _ = lab("plugins=my_parts.py")
    assert "check.arguments.my_named.mode: missing; say what to try it with" in out
    _, out, _ = lab("plugins=my_parts.py", "check.arguments.my_named={mode: a, moed: b}")
    assert "check.arguments.my_named.moed: unknown argument" in out
