"""The user's own YAML: limits on its size and nesting, and the keys that it may set."""

import os

import pytest
from command_line import command_line

from llmlab.cli.start import compose
from llmlab.cli.user_yaml import LONGEST_TEXT, MOST_REFERENCES


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    return command_line(tmp_path, monkeypatch, capsys)


@pytest.fixture
def own(lab):
    """Return a function that writes a file of one's own and composes with it."""

    def write(text, name="experiment/odd", *argv, package="# @package _global_\n"):
        path = lab.folder / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text if isinstance(text, bytes) else f"{package}{text}".encode()
        path.write_bytes(data)
        chosen = argv or (f"{name.rpartition('/')[0]}={name.rpartition('/')[2]}",)
        return lab("--config-dir", "mine", "phase=summary", *chosen)

    return write


def refused(answer, *said):
    assert answer.code == 2, answer.err
    assert len(answer.lines) == 1, answer.err
    assert all(part in answer.err for part in said), answer.err


# keys of Hydra


@pytest.mark.every_day(9)
@pytest.mark.parametrize(
    "value",
    [
        "job: {env_set: {GIT_CONFIG_COUNT: '1'}}",
        "job: {env_copy: [HOME]}",
        "job: {chdir: true}",
        "job_logging: {handlers: {f: {class: logging.FileHandler, filename: x}}}",
        "hydra_logging: {handlers: {f: {class: logging.FileHandler, filename: x}}}",
        "callbacks: {x: {_target_: os.system}}",
        "sweeper: {_target_: os.system}",
        "searchpath: [pkg://antigravity]",
        "output_subdir: .hydra",
        "runtime: {cwd: /}",
        "launcher: {setup: [touch x]}",
        "launcher: {additional_parameters: {wrap: touch x}}",
        "launcher: {address: 'tcp://10.0.0.1:8786'}",
        "launcher: {ray: {init: {address: x}}}",
        "launcher: {_target_: os.system}",
        "launcher: {submitit_folder: /}",
        "launchers: 1",
    ],
)
def test_hydras_own_keys_are_not_taken_from_a_file(own, value):
    refused(own(f"hydra: {{{value}}}\n"), "odd.yaml: hydra.", value.split(":")[0])


@pytest.mark.every_day(1)
@pytest.mark.parametrize("value", ["joblib", "5", "[1]"])
def test_a_launcher_in_a_file_is_a_mapping(own, value):
    said = f"experiment/odd: hydra.launcher={value}: expected a mapping"
    refused(own(f"hydra: {{launcher: {value}}}\n"), said, "launcher=NAME")


@pytest.mark.every_day(1)
@pytest.mark.parametrize("token", ["hydra.launcher=joblib", "hydra.launcher=null"])
def test_so_is_one_that_is_typed(lab, token):
    answer = lab("-m", token, "phase=summary", "seed=0,1")
    refused(answer, f"error: {token}: expected a mapping", "launcher=NAME")


def test_what_hydra_says_of_its_keys_names_them(own):
    refused(own("hydra: {launcher: {n_jobs: 2}}\n"), "hydra.launcher.n_jobs: the launcher in use")
    refused(own("hydra: {verbose: [a, 5]}\n"), "hydra.verbose: expected true, false, or names")


@pytest.mark.slow
def test_a_package_is_no_way_around(own):
    refused(own("env_set: {A: b}\n", package="# @package hydra.job\n"), "hydra.job.env_set")
    refused(own("{A: b}\n", "env/odd", "+env@hydra.job.env_set=odd", package=""), "env_set.A")
    own("env_set: {A: b}\n", "env/odd", "seed=1", package="")
    defaults = "# @package _global_\ndefaults: [{/env@hydra.job: odd}, _self_]\n"
    refused(own(defaults, "experiment/nested", package=""), "hydra.job.env_set.A")
    logging = "version: 1\nhandlers: {f: {class: logging.FileHandler, filename: x}}\n"
    argv = ("hydra/job_logging=odd",)
    refused(own(logging, "hydra/job_logging/odd", *argv, package=""), "hydra.job_logging")


def test_a_primary_configuration_is_looked_at_before_its_search_path(own):
    text = "hydra: {searchpath: ['pkg://antigravity']}\n"
    refused(own(text, "mine", "--config-name=mine"), "hydra.searchpath")


def test_what_is_allowed_of_hydra_works(own, lab):
    assert own("hydra: {run: {dir: there}, verbose: false}\n").code == 0
    assert own("hydra: {run: {dir: there}}\n", "experiment/odd", "experiment=odd").code == 0
    assert lab("--config-dir", "mine", "experiment=odd", "phase=tune").code == 0
    assert (lab.folder / "there" / "run.json").exists()


def test_a_record_is_no_way_around_either(lab):
    assert lab("phase=tune", "hydra.run.dir=run").code == 0
    record = lab.folder / "run" / "run.json"
    text = record.read_text()
    hostile = '"hydra_overrides": ["+hydra.job.env_set.GIT_DIR=x", '
    record.write_text(text.replace('"hydra_overrides": [', hostile))
    refused(lab("resume=run"), "hydra.job.env_set.GIT_DIR", "record")
    assert lab("resume=run", "+hydra.job.env_set.GIT_DIR=x").code == 0  # typed: one's own wish


# size, kind and encoding


DEEP = "[" * 900 + "]" * 900


@pytest.mark.every_day(4)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: 1\n#" + "#" * 6_000_000, "larger than 1,000,000 bytes"),
        (b"lr: 1\0", "#x0000"),
        (b"lr: 1 # \xe9", "isn't UTF-8"),
        ("lr: 1".encode("utf-16"), "isn't UTF-8"),
        (f"x: {DEEP}\n", "odd.yaml:2: nested deeper than 50 levels"),
        ("x: " + "{a: " * 900 + "1" + "}" * 900, "nested deeper than 50 levels"),
        ("lr: [1\n", "odd.yaml:"),
        ("a: &a [*a]\n", "its aliases expand to"),
    ],
)
def test_files_that_are_no_configuration(own, text, said):
    refused(own(text), "odd.yaml", said)


@pytest.mark.every_day(1)
@pytest.mark.parametrize("kind", ["fifo", "endless"])
def test_only_regular_files_are_read(own, lab, kind):
    own("lr: 1\n", "experiment/other")
    path = lab.folder / "mine" / "experiment" / "odd.yaml"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    answer = lab("--config-dir", "mine", "experiment=odd")
    refused(answer, "experiment=odd: unknown experiment", "other")


@pytest.mark.slow
def test_only_chosen_files_are_read(own, lab):
    broken = lab.folder / "mine" / "experiment" / "broken.yaml"
    assert own("lr: 1\n").code == 0
    broken.write_bytes(b"\0")
    assert own("lr: 1\n").code == 0


# references


def laughs(levels, each):
    lines = [f"a0: {each}"]
    lines += [f"a{n}: {f'${{a{n - 1}}}' * 10}" for n in range(1, levels + 1)]
    return "\n".join([*lines, f"template: ${{a{levels}}}"])


@pytest.mark.slow
@pytest.mark.parametrize("each", ["xxxxxxxxxx", "''"])
def test_references_to_references_have_a_limit(own, each):
    refused(own(laughs(9, each)), "expand to more than", f"{MOST_REFERENCES:,}")


def test_a_text_of_references_has_a_limit(own):
    text = f"a: {'x' * (LONGEST_TEXT // 20)}\ntemplate: {'${a}' * 21}\n"
    refused(own(text), "${a}", f"{LONGEST_TEXT:,} characters")


@pytest.mark.slow
def test_many_references_are_fine(own):
    text = "".join(f"  a{n}: ${{seed}}\n" for n in range(500))
    answer = own(f"tracker:\n  type: none\n{text}")
    assert answer.lines and all("unknown argument" in line for line in answer.lines)


# epochs and steps


@pytest.mark.slow
def test_an_experiment_that_states_steps_replaces_the_epochs(own, lab):
    own("steps: 5\n", "experiment/mine")
    for phase in ("pretrain", "tune"):
        assert lab("--config-dir", "mine", "experiment=mine", f"phase={phase}").code == 0
        assert (lab.calls[-1].steps, lab.calls[-1].epochs) == (5, None)
    assert lab("--config-dir", "mine", "experiment=mine", "epochs=3", "phase=tune").code == 0
    assert (lab.calls[-1].steps, lab.calls[-1].epochs) == (None, 3)
    own("defaults: [mine, _self_]\nepochs: 2\n", "experiment/derived")
    assert lab("--config-dir", "mine", "experiment=derived", "phase=tune").code == 0
    assert (lab.calls[-1].steps, lab.calls[-1].epochs) == (None, 2)


def test_so_does_one_that_states_them_for_a_stage(own, lab):
    own("stages: {tune: {steps: 7}}\n", "experiment/mine")
    assert lab("--config-dir", "mine", "experiment=mine", "chat=false").code == 0
    stages = lab.calls[-1].stages
    assert (stages["tune"]["steps"], stages["tune"]["epochs"]) == (7, None)
    assert (stages["pretrain"]["steps"], stages["pretrain"]["epochs"]) == (None, 100)


def test_stating_both_is_still_refused(own):
    refused(own("epochs: 2\nsteps: 5\n"), "epochs=2 and steps=5")


@pytest.mark.slow
def test_shipped_experiments_say_one_of_them():
    assert compose("experiment=shakespeare", "phase=pretrain").steps == 2000
    assert compose("experiment=shakespeare_char", "phase=tune").epochs is None
    assert compose("experiment=tiny", "phase=tune").epochs == 5
