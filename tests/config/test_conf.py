"""Every file under conf/ composes, and says what the schema knows."""

import importlib.util

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from llmlab import __version__
from llmlab.build import resolve_threads
from llmlab.cli import main
from llmlab.cli.help import help_text
from llmlab.cli.places import conf_folder
from llmlab.cli.start import compose
from llmlab.config import Config, ModelKeys
from llmlab.config.values import keys_of
from llmlab.layers import build_stack
from llmlab.params import Layout
from llmlab.phases import PHASES

CONF = conf_folder()
PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}
OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(CONF.glob("*/[!_]*.yaml"))  # those with _ are parts of others
    if path.parent.name != "hydra"
]
GROUPS = {group: [n for g, n in OPTIONS if g == group] for group, _ in OPTIONS}


@pytest.fixture(scope="module")
def default():
    return compose()


@pytest.mark.every_day(6)
@pytest.mark.parametrize("turn", range(max(len(names) for names in GROUPS.values())))
def test_every_option_composes(turn):
    chosen = {group: names[turn] for group, names in GROUPS.items() if turn < len(names)}
    chosen.pop("experiment", None)  # states sizes that not every model can have
    plugin = PLUGINS.get(chosen.get("launcher", ""))
    if plugin and not all(map(importlib.util.find_spec, ("hydra_plugins", plugin))):
        del chosen["launcher"]
    # Without a checkpoint some phases would look for the latest; none is needed here.
    config = compose(*(f"{group}={name}" for group, name in chosen.items()), "checkpoint=null")
    assert config.phase == chosen.get("phase", "full")
    assert all(config.is_typed(group) for group in chosen)


@pytest.mark.every_day(2)
@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_every_experiment_composes(name):
    assert compose(f"experiment={name}").is_typed("experiment")


def test_the_groups_are_all_here():
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    named = {next(iter(entry)) for entry in defaults if isinstance(entry, dict)}
    assert groups == {name for name in named if not name.startswith("override")}


def test_the_file_and_the_schema_have_the_same_keys():
    written = set(yaml.safe_load((CONF / "config.yaml").read_text()))
    groups = {name for name, (_, key) in keys_of(Config).items() if key.group}
    assert written - {"defaults", "hydra"} == (set(keys_of(Config)) - groups) | {"phase"}
    preset = yaml.safe_load((CONF / "model" / "rustgpt.yaml").read_text())
    assert list(preset) == [
        name for name, (_, key) in keys_of(ModelKeys).items() if not key.optional
    ]


def test_every_phase_has_a_file_and_every_file_a_phase():
    assert {name for group, name in OPTIONS if group == "phase"} == set(PHASES)


def test_rustgpt_has_its_size(default):
    model = default.model
    sizes = {key: model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    assert Layout(build_stack(model["stack"], vocab_size=533, **sizes)).num_parameters == 493_973


def test_the_stack_follows_the_sizes():
    config = compose("model.embedding_dim=64", "model.num_heads=4", "model.max_seq_len=16")
    attention = config.model["stack"]["blocks"]["layers"]["attention"]["layer"]
    assert attention["num_heads"] == 4
    assert config.model["stack"]["tokens"]["embedding_dim"] == 64
    assert config.model["stack"]["positions"]["max_seq_len"] == 16


def test_a_layer_is_reached_by_its_place_also_with_arguments_that_yaml_leaves_out():
    config = compose(
        "model.stack.blocks.layers.attention.layer.num_heads=2",
        "model.stack.blocks.layers.attention.layer.dropout=0.1",
    )
    attention = config.model["stack"]["blocks"]["layers"]["attention"]["layer"]
    assert (attention["num_heads"], attention["dropout"]) == (2, 0.1)


def test_a_phase_and_an_experiment_give_way_to_what_is_typed():
    config = compose("experiment=tiny", "phase=tune", "lr=3e-4", "epochs=9")
    assert (config.lr, config.epochs) == (3e-4, 9)
    assert config.model["embedding_dim"] == 32


def test_rustgpts_way_takes_lines_in_order():
    config = compose("experiment=rustgpt_batch1")
    assert config.batch_size == 1
    assert not config.data["pretrain"]["shuffle"]
    assert not config.data["tune"]["shuffle"]


def test_the_version_is_the_packages():
    import tomllib

    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


def test_a_launcher_that_is_not_installed_says_what_is(tmp_path, monkeypatch, capsys):
    Plugins.instance()  # finds the launchers that are there
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(launchers, "joblib.yaml", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["launcher=joblib", "-m", "phase=list", "seed=1,2"]) == 5
    assert capsys.readouterr().err == (
        "error: launcher=joblib needs the package 'hydra-joblib-launcher': pip install "
        "'llmlab[joblib]'\n"
    )


def test_parts_of_files_are_no_options_but_their_keys_are_known(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def problem(word):
        assert main([word]) == 2
        return capsys.readouterr().err

    assert list(CONF.glob("*/_*.yaml")) and "_" not in help_text().split("data=")[1].split("\n")[0]
    assert problem("data=nothing").endswith("known: rustgpt, text, tokens\n")
    assert problem("data=3").endswith("known: rustgpt, text, tokens\n")
    assert "did you mean 'data.tune.answer_only'?" in problem("answer_only=true")
    assert "did you mean" not in problem("defaults=1")


@pytest.mark.parametrize(
    ("threads", "batch_size", "length", "wanted"),
    [
        *[(3, 1, 8, 3), ("auto", 8, 80, 2), ("auto", 1, 4096, 1)],
        *[("auto", 4, 64, 1), ("auto", 6, 128, 2), ("auto", 64, 256, 8)],
    ],
)
def test_cores_are_used_as_far_as_rows_and_tokens_go(
    threads, batch_size, length, wanted, monkeypatch
):
    monkeypatch.setattr("llmlab.resources.usable_cpus", lambda: 8)
    assert resolve_threads(threads, batch_size, length) == wanted
