"""The typed configuration: types, ranges, cross-field rules, stages, what a checkpoint keeps."""

import copy
import json
from functools import cache

import pytest
from omegaconf import OmegaConf

from llmlab.cli import start
from llmlab.config import load
from llmlab.config.plugins import import_plugins
from llmlab.config.stored import overlay
from llmlab.config.values import Unfit, convert
from llmlab.errors import ConfigError
from llmlab.layers import LAYERS


@cache
def composed(phase):
    captured = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmlab.config.load", lambda cfg, typed: captured.append(cfg))
        start.compose(f"phase={phase}")
    OmegaConf.resolve(captured[0].data)
    return captured[0]


def loaded(changes=None, phase="full", typed=None):
    cfg = copy.deepcopy(composed(phase))
    for key, value in (changes or {}).items():
        OmegaConf.update(cfg, key, value, force_add=True)
    return load(cfg, (changes or {}).keys() if typed is None else typed)


def problems(changes, phase="full", typed=None):
    with pytest.raises(ConfigError) as caught:
        loaded(changes, phase, typed)
    return caught.value.problems


def test_defaults_are_plain_values_that_json_can_hold():
    config = loaded()
    assert (config.phase, config.batch_size, config.clip_norm) == ("full", 8, 5.0)
    assert (config.lr, config.threads, config.on) == (None, "auto", None)
    assert config.model["stack"]["blocks"]["repeat"] == 3
    assert type(config.model["stack"]["tokens"]) is dict
    assert json.loads(json.dumps(config.to_dict()))["model"] == config.model


def test_to_dict_gives_away_nothing_of_the_configuration():
    config = loaded()
    config.to_dict()["model"]["stack"]["tokens"]["type"] = "changed"
    assert config.model["stack"]["tokens"]["type"] == "token_embedding"


@pytest.mark.every_day(18)
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lr", "abc", "lr=abc: expected a number or null"),
        ("lr", float("nan"), "lr=nan: must be finite"),
        ("lr", float("inf"), "lr=inf: must be finite"),
        ("lr", 10**400, "must be finite"),
        ("lr", 0, "lr=0: must be more than 0"),
        ("lr", True, "lr=true: expected a number"),
        ("epochs", 64.5, "epochs=64.5: expected a whole number or null; nearest: 64 or 65"),
        ("epochs", True, "epochs=true: expected a whole number"),
        ("epochs", "abc", "epochs=abc: expected a whole number"),
        ("epochs", 0, "epochs=0: must be at least 1"),
        ("epochs", float("inf"), "must be finite"),
        ("batch_size", -3, "batch_size=-3: must be at least 1 and at most 1,000,000"),
        ("batch_size", 10**9, "at most 1,000,000"),
        ("batch_size", None, "batch_size=null: expected a whole number"),
        ("clip_norm", 0.0, "clip_norm=0.0: must be more than 0"),
        ("seed", -1, "seed=-1: must be at least 0"),
        ("keep", 1, "keep=1: must be at least 2"),
        ("threads", "many", "threads=many: must be a whole number or auto"),
        ("positions", "rop", "must be one of: "),
        ("dtype", "float23", "did you mean 'float32'?"),
        ("chat", 1, "chat=1: expected true or false"),
        ("prompt", 5, "prompt=5: expected text"),
        ("foo", 1, "foo=1: unknown key"),
        ("lr", "${nope}", "lr: Interpolation key 'nope' not found"),
        ("lr", "???", "lr: missing"),
        ("model.x", 1, "model.x=1: unknown key"),
        ("model.embedding_dim", 0, "model.embedding_dim=0: must be at least 1"),
        ("model.embedding_dim", None, "model.embedding_dim=null: expected a whole number"),
        ("model.dropout", 1.0, "model.dropout=1.0: must be at least 0 and less than 1"),
        ("model.stack", "three", "model.stack=three: expected a mapping"),
        ("stages.tune.lr", -1, "stages.tune.lr=-1: must be more than 0"),
        ("stages.tune.lr", None, "stages.tune.lr: null"),
        ("optimizer.type", "adma", "unknown optimizer 'adma' (did you mean 'adam'?)"),
        ("optimizer.beta3", 1, "optimizer.beta3: unknown argument"),
        ("optimizer.beta1", "abc", "optimizer.beta1=abc: expected a number"),
        ("schedule.warmup_steps", 1.5, "schedule.warmup_steps=1.5: expected a whole number"),
        ("sampler.type", None, "sampler: no 'type'"),
        ("tokenizer.corpus", 3, "tokenizer.corpus=3: expected a list of files"),
        ("data.pretrian.path", "x", "data.pretrian: unknown stage (did you mean 'pretrain'?)"),
        ("data.tune.pth", "x", "data.tune.pth: unknown argument"),
        ("model.stack.positions.xyz", 1, "model.stack.positions.xyz: unknown argument of layer"),
        ("model.stack.tokens.type", "token_embeding", "did you mean 'token_embedding'?"),
        (
            "model.stack.tokens.init.std",
            "wide",
            "model.stack.tokens.init.std=wide: expected a number",
        ),
        ("model.stack.blocks.layers.attention.norm.eps", None, "eps=null: expected a number"),
        (
            "model.stack.blocks.layers.feed_forward.layer.hidden_dim",
            2.5,
            "hidden_dim=2.5: expected a whole",
        ),
        (
            "model.stack.blocks.layers.attention.layer.num_heads",
            3,
            "model.stack.blocks.layers.attention.layer.num_heads=3",
        ),
        ("model.stack.blocks.layers.feed_forward.layer.activation", "rleu", "did you mean 'relu'?"),
        (
            "model.stack.blocks.layers.attention.layer",
            5,
            "model.stack.blocks.layers.attention.layer=5: expected a layer",
        ),
        ("model.stack.blocks.layers.attention.norm", None, "norm=null: expected a layer's name"),
        ("model.stack.positions.max_seq_len", 40, "max_seq_len=40: less than the model's, 80"),
        (
            "threads",
            9,
            "threads=9: more than batch_size=8, the samples that they share; nearest: 8",
        ),
        ("model.stack.blocks.repeat", 2**31, "blocks.repeat=2147483648: must be a whole number"),
        ("model.stack.blocks.repeat", 1001, "must be a whole number from 1 to 1,000"),
        ("model.stack.blocks.layers.attention.repeat", 2**31, "from 1 to 1,000"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_key(key, value, said):
    found = problems({key: value})
    assert len(found) == 1, found
    assert said in found[0]
    assert key.rpartition(".")[0] in found[0]


def test_all_problems_are_reported_at_once():
    found = problems({"lr": -1, "batch_size": "abc", "model.dropout": 2, "optimizer.beta3": 1})
    assert [line.split("=")[0].split(":")[0] for line in found] == [
        "lr",
        "batch_size",
        "model.dropout",
        "optimizer.beta3",
    ]


@pytest.mark.parametrize(
    ("width", "heads", "nearest"),
    [
        (130, 4, "nearest: embedding_dim 128 or 132, or num_heads 2 or 5"),
        (3, 8, "nearest: embedding_dim 8, or num_heads 3"),
    ],
)
def test_heads_must_divide_the_width_and_the_nearest_are_named(width, heads, nearest):
    found = problems({"model.embedding_dim": width, "model.num_heads": heads})
    assert found == [
        f"model.embedding_dim={width}: must be divisible by model.num_heads={heads}; {nearest}"
    ]


def test_key_and_value_heads_must_divide_the_heads():
    found = problems({"model.num_heads": 8, "model.num_kv_heads": 3})
    assert found == ["model.num_kv_heads=3: must divide model.num_heads=8; nearest: 2 or 4"]


def test_whole_floats_pass_as_integers_everywhere():
    config = loaded(
        {
            "epochs": 1e3,
            "model.num_blocks": 2.0,
            "schedule.warmup_steps": 1e1,
            "model.stack.blocks.layers.feed_forward.layer.hidden_dim": 64.0,
        }
    )
    numbers = [
        config.epochs,
        config.model["num_blocks"],
        config.model["stack"]["blocks"]["repeat"],
        config.schedule["warmup_steps"],
        config.model["stack"]["blocks"]["layers"]["feed_forward"]["layer"]["hidden_dim"],
    ]
    assert numbers == [1000, 2, 2, 10, 64]
    assert all(type(number) is int for number in numbers)


def test_whole_numbers_pass_as_floats():
    assert type(loaded({"lr": 1}).lr) is float


@pytest.mark.parametrize("value", ["???", "null", ""])
def test_text_that_looks_like_yaml_stays_text(value):
    assert loaded({"prompt": value}).prompt == value


def test_convert_accepts_what_it_does_not_know():
    marker = object()
    assert convert(marker, object) is marker
    with pytest.raises(Unfit, match="expected a list"):
        convert("a", list[str])
    with pytest.raises(Unfit, match="expected text"):
        convert([1], list[str])


# stages


def test_each_stage_has_its_own_rate_and_length():
    config = loaded()
    first, second = config.for_stage("pretrain"), config.for_stage("tune")
    assert (first.phase, first.lr, first.epochs) == ("pretrain", 5e-4, 100)
    assert (second.phase, second.lr, second.epochs) == ("tune", 1e-4, 100)
    assert second.stages == {}


def test_a_given_rate_is_for_both_stages_and_a_typed_stage_wins():
    config = loaded({"lr": 1e-2, "epochs": 7, "stages.tune.lr": 3e-5})
    assert config.for_stage("pretrain").lr == 1e-2
    assert config.for_stage("tune").lr == 3e-5
    assert config.for_stage("tune").epochs == 7


def test_a_stage_that_an_experiment_states_gives_way_to_a_given_rate():
    config = loaded({"lr": 1e-2, "stages.tune.lr": 3e-5}, typed=["lr"])
    assert config.for_stage("tune").lr == 1e-2


def test_steps_take_the_place_of_epochs():
    config = loaded({"steps": 50, "stages.tune.steps": 9})
    first, second = config.for_stage("pretrain"), config.for_stage("tune")
    assert (first.steps, first.epochs) == (50, None)
    assert (second.steps, second.epochs) == (9, None)
    alone = loaded({"steps": 50}, phase="pretrain")
    assert (alone.steps, alone.epochs) == (50, None)
    assert alone.for_stage("pretrain").steps == 50


def test_steps_and_epochs_together_are_refused():
    found = problems({"steps": 50, "epochs": 3}, phase="tune")
    assert found[0].startswith("epochs=3 and steps=50: one of them")
    found = problems({"epochs": None}, phase="tune", typed=[])
    assert found == ["epochs: null, and so is steps; set one of them"]


# what a checkpoint keeps


def test_what_is_kept_holds_no_path_and_nothing_of_this_start():
    config = loaded({"checkpoint": "/a/b.npz", "resume": "/runs/x", "prompt": "hi", "threads": 3})
    kept = config.for_stage("tune").reproducible()
    text = json.dumps(kept)
    assert "/" not in text
    assert kept["phase"] == "tune"
    assert list(kept["data"]) == ["tune"]
    assert kept["data"]["tune"]["type"] == "chats"
    assert not {"checkpoint", "resume", "prompt", "threads", "source", "target", "on"} & set(kept)
    assert kept["lr"] == 1e-4
    assert kept["model"] == config.model


def test_the_same_experiment_elsewhere_keeps_the_same():
    here = loaded(phase="tune").reproducible()
    there = loaded({"data.tune.path": "/else/where.txt", "threads": 2, "keep": 5}, phase="tune")
    assert there.reproducible() == here


def test_is_typed_looks_around_and_inside():
    config = loaded({"model.num_heads": 2})
    assert config.is_typed("model")
    assert config.is_typed("model.num_heads")
    assert not config.is_typed("model.num")
    assert not config.is_typed("tokenizer")


def test_a_stored_configuration_replaces_what_was_not_typed():
    stored = loaded({"lr": 7e-3, "seed": 4, "model.num_blocks": 2}, phase="tune").reproducible()
    cfg = copy.deepcopy(composed("tune"))
    for key, value in {"seed": 9, "data.tune.path": "/my/chats.txt", "keep": 4}.items():
        OmegaConf.update(cfg, key, value)
    config = load(cfg, ["seed", "data.tune.path", "keep"], json.loads(json.dumps(stored)))
    assert (config.lr, config.seed, config.keep) == (7e-3, 9, 4)
    assert config.model["num_blocks"] == 2
    assert config.model["stack"]["blocks"]["repeat"] == 2
    assert config.data["tune"]["path"] == "/my/chats.txt"
    assert config.data["pretrain"] == loaded(phase="tune").data["pretrain"]
    assert config.tokenizer["corpus"]


def test_overlay_leaves_out_arguments_of_another_type():
    composed = {"optimizer": {"type": "adam", "beta1": 0.9}}
    stored = {"optimizer": {"type": "sgd", "momentum": 0.5}}
    assert overlay(composed, stored, []) == stored
    assert overlay(composed, stored, ["optimizer"]) == composed
    kept = overlay(composed, stored, ["optimizer.beta1"])
    assert kept["optimizer"] == {"type": "sgd", "momentum": 0.5, "beta1": 0.9}


def test_overlay_keeps_the_stored_order_and_what_was_typed_inside():
    composed = {"model": {"stack": {"a": {"x": 1}, "new": {"x": 3}, "b": {"x": 2, "y": 2}}}}
    stored = {"model": {"stack": {"order": ["b", "a"], "a": {"x": 5}, "b": {"x": 6, "y": 7}}}}
    typed = ["model.stack.b.x", "model.stack.new.x"]
    found = overlay(composed, stored, typed)["model"]["stack"]
    assert found == {"order": ["b", "a"], "a": {"x": 5}, "b": {"x": 2, "y": 7}, "new": {"x": 3}}
    assert list(found)[-1] == "new"
    gone = overlay({"model": {"stack": {"a": {"x": 1}}}}, stored, ["model.stack.b"])
    assert list(gone["model"]["stack"]) == ["order", "a"]  # ~model.stack.b


# plug-ins

PLUGIN = '''
from llmlab.layers.base import LAYERS
from llmlab.layers.norms import LayerNorm

@LAYERS.register("test_plugin_norm")
class Mine(LayerNorm):
    """A norm of one's own."""
'''


def test_a_plugin_registers_a_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(LAYERS, "_factories", dict(LAYERS._factories))
    path = tmp_path / "my_layers.py"
    path.write_text(PLUGIN)
    changes = {
        "plugins": [str(path)],
        "model.stack.blocks.layers.attention.norm.type": "test_plugin_norm",
    }
    assert loaded(changes).plugins == [str(path)]
    assert import_plugins([str(path)]) == []


def test_a_plugin_is_only_taken_from_the_command_line(tmp_path):
    path = tmp_path / "never.py"
    path.write_text("raise SystemExit('ran')")
    assert problems({"plugins": [str(path)]}, typed=[]) == [
        "plugins: only taken from the command line, since it runs code"
    ]


@pytest.mark.parametrize("name", ["no_such_module", "/no/such/file.py"])
def test_a_plugin_that_cannot_be_imported_is_named(name):
    assert problems({"plugins": [name]})[0].startswith(f"plugins={name}: ")


def test_a_defect_in_a_plugin_is_one_line(tmp_path):
    path = tmp_path / "broken_plugin.py"
    path.write_text("1 / 0")
    assert import_plugins([str(path)]) == [
        f"plugins={path}: {path}:1: ZeroDivisionError: division by zero"
    ]
