"""The registry: what it builds, and what it says about specs that are wrong."""

import sys
import textwrap

import pytest

from llmlab.errors import ConfigError, suggest
from llmlab.layers import ACTIVATIONS, INITIALISATIONS, LAYERS
from llmlab.optim import OPTIMIZERS, SCHEDULES
from llmlab.registry import Registry, load_package

OWN = "; one of your own needs plugins=FILE.py"


@pytest.fixture
def things():
    registry = Registry("thing")

    @registry.register("box")
    class Box:
        """A box.

        More about it.
        """

        def __init__(self, width: int, height: int = 2, depth: int | None = None):
            self.size = (width, height, depth)

    @registry.register("fussy")
    def fussy(value=1):
        if value < 0:
            raise ConfigError(f"value={value}: must not be negative")
        return value

    return registry


def problems(registry, spec, **context):
    with pytest.raises(ConfigError) as error:
        registry.build(spec, "model.box", **context)
    assert error.value.exit_code == 2
    assert str(error.value) == "\n".join(error.value.problems)
    assert registry.check(spec, "model.box", context) in (error.value.problems, [])
    return error.value.problems


def test_builds_from_a_name_or_a_mapping(things):
    assert things.build({"type": "box", "width": 3}, "x").size == (3, 2, None)
    assert things.build("fussy", "x") == 1
    assert things.build({"type": "fussy", "value": 5}, "x") == 5


def test_context_fills_what_the_spec_leaves_out(things):
    box = things.build({"type": "box", "height": 7}, "x", width=1, height=2, colour="red")
    assert box.size == (1, 7, None)
    spec = {"type": "box", "width": None}
    assert things.build(spec, "x", width=3).size[0] is None  # given, if only as null
    assert spec == {"type": "box", "width": None}


def test_every_problem_is_named_with_its_key(things):
    found = problems(things, {"type": "box", "hieght": 2, "colour": 1})
    assert found == [
        "model.box.hieght: unknown argument of thing 'box' (did you mean 'height'?); "
        "it takes: width, height, depth",
        "model.box.colour: unknown argument of thing 'box'; it takes: width, height, depth",
        "model.box.width: missing, thing 'box' needs it",
    ]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "bxo",
            "model.box: unknown thing 'bxo' (did you mean 'box'?); known: box, fussy" + OWN,
        ),
        ({"width": 3}, "model.box: no 'type'; known things: box, fussy"),
        ({"type": None}, "model.box: no 'type'; known things: box, fussy"),
        (3, "model.box=3: expected a thing as a mapping with 'type'"),
        (None, "model.box=None: expected a thing as a mapping with 'type'"),
        ({"type": "fussy", "value": -1}, "model.box.value=-1: must not be negative"),
        (
            {"type": 7},
            "model.box: unknown thing '7'; known: box, fussy" + OWN,
        ),
        (
            {"type": ["box"]},
            "model.box: unknown thing '['box']' (did you mean 'box'?); known: box, fussy" + OWN,
        ),
    ],
)
def test_wrong_specs(things, spec, said):
    assert problems(things, spec) == [said]


def test_only_what_is_registered_can_be_named(things):
    for name in ("os.system", "builtins.eval", "__init__", "llmlab.registry.Registry"):
        assert "unknown thing" in problems(things, {"type": name})[0]
    assert "unknown argument" in problems(things, {"type": "fussy", "_target_": "os.system"})[0]


def test_describes_its_entries(things):
    assert things.names() == ["box", "fussy"]
    assert things.describe("box") == {"width": ..., "height": 2, "depth": None}
    assert things.summary("box") == "A box."
    assert things.summary("fussy") == ""


def test_two_factories_of_one_name_are_refused(things):
    with pytest.raises(ValueError, match="thing 'box' is registered twice"):
        things.register("box")(lambda: None)


def test_importing_a_module_again_is_no_second_registration(things):
    def make():
        def factory():
            return None

        return factory

    things.register("again")(make())
    things.register("again")(make())
    assert things.build("again", "x") is None


def test_a_file_in_a_package_is_enough(tmp_path, monkeypatch):
    package = tmp_path / "plugged"
    package.mkdir()
    (package / "__init__.py").write_text(
        textwrap.dedent(
            """
            from llmlab.registry import Registry, load_package
            PLUGS = Registry("plug")
            load_package(__name__, __path__)
            """
        )
    )
    (package / "one.py").write_text(
        "from plugged import PLUGS\n@PLUGS.register('one')\ndef one(x=1):\n    return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import plugged  # type: ignore[import-not-found]

    assert plugged.PLUGS.names() == ["one"]
    load_package("plugged", plugged.__path__)
    for name in ("plugged", "plugged.one"):
        del sys.modules[name]


REGISTRIES = (LAYERS, ACTIVATIONS, INITIALISATIONS, OPTIMIZERS, SCHEDULES)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_entries_can_be_listed_with_their_arguments(registry):
    assert registry.names()
    for name in registry.names():
        assert name == name.lower() and " " not in name
        assert len(registry.summary(name)) > 5, f"{name} has no docstring"
        assert isinstance(registry.describe(name), dict)


def test_suggest():
    assert suggest("atention", ["attention", "linear"]) == " (did you mean 'attention'?)"
    assert suggest("zzz", ["attention"]) == ""
    assert suggest(3, ["attention"]) == ""
