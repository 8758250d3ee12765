"""The network in the configuration: order, what a typed type drops, `each`, `positions=`."""

import json
import logging
import re
from functools import cache

import pytest
import yaml
from omegaconf import OmegaConf

from llmlab.cli import main
from llmlab.cli.places import conf_folder
from llmlab.cli.start import compose
from llmlab.config import load
from llmlab.config.network import positions_in
from llmlab.errors import ConfigError
from llmlab.layers import build_stack
from llmlab.params import Layout

CHOICES = [
    *(f"model={path.stem}" for path in sorted((conf_folder() / "model").glob("[!_]*.yaml"))),
    *(f"experiment={path.stem}" for path in sorted((conf_folder() / "experiment").glob("*.yaml"))),
]
BLOCKS = "model.stack.blocks.layers"


def names(config):
    """Return the names of all layers, in order."""
    model = config.model
    sizes = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    stack = build_stack(model["stack"], vocab_size=11, **sizes)
    return [name for name, *_ in walk(stack)]


def walk(layer, name=""):
    for key, child in layer.children().items():
        yield f"{name}.{key}", child
        yield from walk(child, f"{name}.{key}")


@cache
def _saved(*argv):
    return json.dumps({k: v for k, v in compose(*argv).to_dict().items() if k != "typed"})


def plain_of(*argv, **changes):
    """Return a composed configuration as plain values, to change and load without Hydra."""
    return json.loads(_saved(*argv)) | changes


def problems(*argv):
    with pytest.raises(ConfigError) as caught:
        compose(*argv)
    return caught.value.problems


@pytest.mark.every_day(2)
@pytest.mark.parametrize("choice", CHOICES)
def test_order_survives_being_saved_and_continued(choice):
    config = load(plain_of(choice, phase="tune", lr=1e-4, epochs=1, steps=None))
    stored = json.loads(json.dumps(config.reproducible(), sort_keys=True))
    typed = f"{BLOCKS}.attention.layer.window"
    plain = plain_of("phase=tune")
    plain["model"]["stack"]["blocks"]["layers"]["attention"]["layer"]["window"] = 7
    again = load(plain, [typed], stored)
    assert again.model["stack"]["order"] == config.model["stack"]["order"]
    assert names(again) == names(config)
    assert again.model["stack"]["blocks"]["layers"]["attention"]["layer"]["window"] == 7
    assert "after" not in json.dumps(stored) and load(plain, [], stored).model == config.model


def test_a_typed_layer_joins_a_stored_stack_at_its_place():
    stored = json.loads(json.dumps(compose("model=gpt2", "phase=tune").reproducible()))
    plain = plain_of("phase=tune")
    plain["model"]["stack"]["extra"] = {"type": "dropout", "after": "blocks"}
    again = load(plain, ["model.stack.extra.type", "model.stack.extra.after"], stored)
    wanted = ["tokens", "positions", "dropout", "blocks", "extra", "norm", "output"]
    assert again.model["stack"]["order"] == wanted


def test_null_and_the_tilde_leave_a_layer_out():
    wanted = ["tokens", "blocks", "output"]
    for argument in ("model.stack.positions=null", "~model.stack.positions"):
        assert compose(argument).model["stack"]["order"] == wanted


def test_a_typed_type_drops_what_was_meant_for_another(caplog):
    with caplog.at_level(logging.INFO, "llmlab"):
        config = compose(f"{BLOCKS}.attention.layer.type=linear", "model=llama")
    layer = config.model["stack"]["blocks"]["layers"]["attention"]["layer"]
    assert layer == {"type": "linear", "bias": False, "init": {"type": "normal", "std": 0.02}}
    (told,) = caplog.messages
    assert told.startswith(f"{BLOCKS}.attention.layer.type=linear: doesn't take num_heads, ")


def test_what_was_typed_with_the_type_stays_and_is_refused_if_it_is_wrong():
    (problem,) = problems(f"{BLOCKS}.attention.norm={{type: rms_norm, bias: true}}")
    assert problem.startswith(f"{BLOCKS}.attention.norm.bias: unknown argument of layer 'rms_norm'")
    config = compose(f"{BLOCKS}.attention.norm={{type: rms_norm, eps: 1e-3}}")
    norm = config.model["stack"]["blocks"]["layers"]["attention"]["norm"]
    assert norm == {"type": "rms_norm", "eps": 1e-3}


def test_the_same_rule_holds_for_other_groups():
    assert compose("optimizer.type=sgd").optimizer == {"type": "sgd"}
    found = compose("data.tune.type=lines", "data.tune.shuffle=false").data["tune"]
    assert found["type"] == "lines" and "answer_only" not in found
    assert problems("optimizer.type=sgd", "optimizer.beta1=0.5")[0].startswith("optimizer.beta1: ")


def test_each_repeat_may_differ():
    over = "model.stack.blocks.each.0.layers"
    config = compose(
        f"{over}.attention=null",
        f"{over}.feed_forward.layer.type=mixture_of_experts",
        f"{over}.feed_forward.layer.num_experts=2.0",
        f"{over}.extra={{type: rms_norm, before: feed_forward}}",
    )
    kept = config.model["stack"]["blocks"]["each"]["0"]["layers"]
    assert kept["order"] == ["extra", "feed_forward"] and kept["attention"] is None
    assert kept["extra"] == {"type": "rms_norm"}
    experts = kept["feed_forward"]["layer"]
    assert experts == {"type": "mixture_of_experts", "num_experts": 2}
    assert type(experts["num_experts"]) is int
    found = names(config)
    assert ".blocks.0.extra" in found and ".blocks.0.attention" not in found
    assert ".blocks.1.attention" in found and ".blocks.0.feed_forward..router" in found
    stored = json.loads(json.dumps(config.reproducible(), sort_keys=True))
    assert names(load(plain_of("model=llama"), [], stored)) == found
    (problem,) = problems("model.stack.blocks.each.3.layers.attention=null")
    assert "0 to 2" in problem
    (problem,) = problems("model.stack.blocks.each.1.layers.attenton.dropout=0.1")
    assert "model.stack.blocks.each.1.layers.attenton: unknown layer" in problem


@pytest.mark.every_day(8)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rope", "alibi", "none"])
def test_positions_of_every_preset_and_experiment(choice, kind, caplog):
    config = load(plain_of(choice, positions=kind), ["positions"])
    added, inside = positions_in(config.model["stack"])
    if kind in ("learned", "sinusoidal"):
        assert set(added.values()) == {f"{kind}_positions"} and len(added) == 1 and not inside
        assert config.model["stack"]["order"][1] == "positions"
    elif kind == "none":
        assert not added and not inside
    else:
        assert not added and set(inside.values()) == {kind}
        attentions = json.dumps(config.model["stack"]).count('"type": "attention"')
        assert len(inside) == attentions
    assert "two kinds" not in caplog.text
    plain = load(plain_of(choice))
    others = [n for n in names(plain) if not n.startswith(".positions")]
    assert [n for n in names(config) if not n.startswith(".positions")] == others
    sizes = {key: plain.model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    one, other = (
        Layout(build_stack(c.model["stack"], vocab_size=11, **sizes)).shapes
        for c in (plain, config)
    )
    assert {n for n in one if "positions" not in n} == {n for n in other if "positions" not in n}


@pytest.mark.every_day(1)
@pytest.mark.parametrize(("choice", "kind"), [("rustgpt", "learned"), ("mixtral", "rope")])
def test_positions_that_a_preset_has_already_stay_as_they_are(choice, kind):
    model = f"model={choice}"
    assert compose(model, f"positions={kind}").model == load(plain_of(model)).model


def test_only_a_typed_layer_beats_positions(caplog):
    typed = "model.stack.positions={type: sinusoidal_positions}"
    config = compose("positions=rope", typed)
    added, inside = positions_in(config.model["stack"])
    assert list(added.values()) == ["sinusoidal_positions"] and set(inside.values()) == {"rope"}
    assert "two kinds of positions at once: model.stack.positions (sinusoidal" in caplog.text
    config = compose("positions=rope", f"{BLOCKS}.attention.layer.positions.theta=500.0")
    layer = config.model["stack"]["blocks"]["layers"]["attention"]["layer"]
    assert layer["positions"] == {"type": "rope", "theta": 500.0}
    config = compose("positions=none", f"{BLOCKS}.attention.layer.positions=alibi")
    assert list(positions_in(config.model["stack"])[1].values()) == ["alibi"]


def test_positions_reach_a_single_repeat():
    over = "model.stack.blocks.each.1.layers.attention.layer"
    config = compose("model=llama", f"{over}.num_kv_heads=2", "positions=alibi")
    assert set(positions_in(config.model["stack"])[1].values()) == {"alibi"}
    kept = config.model["stack"]["blocks"]["each"]["1"]["layers"]["attention"]["layer"]
    assert kept == {"num_kv_heads": 2}


def test_rope_beside_learned_positions_is_said(caplog):
    compose(f"{BLOCKS}.attention.layer.positions=rope")
    assert "two kinds of positions at once" in caplog.text


@pytest.mark.slow
def test_the_summary_names_the_positions(capsys):
    for kind, named in (("alibi", "alibi"), ("none", "none"), ("learned", "learned_positions")):
        assert main(["phase=summary", "experiment=tiny", f"positions={kind}"]) == 0
        assert capsys.readouterr().out.splitlines()[0].endswith(f"positions: {named}")


def test_positions_are_refused_with_a_checkpoint():
    plain = plain_of("phase=tune", positions="rope", checkpoint="a.npz")
    with pytest.raises(ConfigError, match="positions=rope: the checkpoint's network has its own"):
        load(plain, ["positions"])
    tune = compose("phase=tune")
    assert load(plain, []).model == tune.model  # an experiment's, not typed
    stored = tune.reproducible()
    with pytest.raises(ConfigError, match="positions=rope"):
        load({**plain, "checkpoint": None}, ["positions"], stored)


def test_former_names_of_layers_say_where_they_are():
    plain = plain_of()
    plain["model"] |= {"attention": {"window": 8}}
    with pytest.raises(ConfigError) as caught:
        load(plain, ["model.attention.window"])
    assert caught.value.problems == [
        "model.attention.window: layers are changed in the stack: "
        "model.stack.blocks.layers.attention.layer.window"
    ]


@pytest.mark.slow
def test_what_the_docs_say_of_changing_a_network():
    text = (conf_folder().parent / "docs" / "layers.md").read_text(encoding="utf-8")
    section = text.split("## Changing a network")[1].split("\n## ")[0]
    commands = re.findall(r"^\| `([\w.]+=[^`]*)` \|", section, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        model = "gpt2" if "model.stack.norm" in command else "rustgpt"
        assert compose(f"model={model}", *command.split()).model != load(plain_of()).model
    (example,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    config = load(OmegaConf.merge(plain_of(), yaml.safe_load(example)))
    assert config.model["stack"]["order"] == ["tokens", "wave", "blocks", "output"]
    assert config.model["stack"]["blocks"]["each"]["2"]
