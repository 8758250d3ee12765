"""The command line as a whole: errors and exit codes, free text, runs, help."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import BROKEN, FAILING, INTERRUPTED, STOPPED, command_line

import llmlab
from llmlab import __version__
from llmlab.cli.help import help_text
from llmlab.cli.help_keys import read_yaml
from llmlab.cli.start import survive_python_314
from llmlab.config.specs import registries
from llmlab.layers import LAYERS, build_stack

CONF = Path(llmlab.__file__).parents[1] / "conf"


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    return command_line(tmp_path, monkeypatch, capsys)


def runs(lab, phase="*"):
    return sorted(path.parent for path in lab.folder.glob(f"runs/{phase}/*/run.json"))


# help


def test_the_help_is_for_people(lab):
    answer = lab("--help")
    assert answer.code == 0
    assert "hydra:" not in answer.out and "hydra.job" not in answer.out
    for part in ("phases", "clip_norm=5.0", "lr=5e-4 (tune 1e-4)", "examples", "--cfg"):
        assert part in answer.out
    assert max(map(len, help_text().splitlines())) <= 100


def test_the_help_names_every_key():
    """Those that the files of conf/ state, and the arguments of what they choose."""
    text = " ".join(help_text().split())
    words = {word.strip(",").split("=")[0] for word in text.split()}
    assert {"data.pretrain.val_fraction", "serve.port", "study.alpha", "on"} <= words
    stated = set(leaves(read_yaml(CONF / "config.yaml")))
    for path in CONF.glob("*/*.yaml"):
        if path.parent.name in ("experiment", "phase", "launcher", "model"):
            continue
        where = "data.tune" if path.name.startswith("_") else path.parent.name
        stated |= {f"{where}.{key}" for key in leaves(read_yaml(path))}
    points = ("hydra.", "callbacks.", "stages", "defaults")  # the help says how these go
    missing = {key for key in stated - words if not key.startswith(points)}
    assert not {key for key in missing if not key.endswith((".type", ".defaults"))}
    kinds = registries()
    takes = {
        f"{kind}.{key}"
        for kind in ("optimizer", "schedule", "sampler", "tracker", "adapter")
        for name in kinds[kind].names()
        for key in kinds[kind].describe(name)
    }
    takes |= {
        f"data.{'tune' if name == 'chats' else 'pretrain'}.{key}"
        for name in kinds["dataset"].names()
        for key in kinds["dataset"].describe(name)
        if key not in kinds["dataset"].supplied
    }
    supplied = {f"{kind}.{key}" for kind in kinds for key in kinds[kind].supplied}
    assert takes - supplied <= words


def leaves(config, where=""):
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}"


def test_the_version(lab):
    assert lab("--version").out == f"llmlab {__version__}\n"


def test_hydras_own_flags_work(lab):
    answer = lab("--cfg", "job", "lr=3e-4")
    assert answer.code == 0
    assert "lr: 0.0003" in answer.out
    assert not runs(lab)


# bad inputs, by the row of the table


@pytest.mark.every_day(5)
@pytest.mark.parametrize(
    ("row", "argv", "said"),
    [
        (
            1,
            ["model.num_block=3"],
            "model.num_block: unknown key (did you mean 'model.num_blocks'?)",
        ),
        (1, ["n_layer=3"], "(did you mean 'model.num_blocks'?)"),
        (1, ["num_heads=3"], "(did you mean 'model.num_heads'?)"),
        (1, ["lr 5e-4"], "expected key=value"),
        (1, ["pretrain"], "pretrain: write phase=pretrain"),
        (0, ["resume=lastest"], "resume=lastest: no such run; resume=latest continues"),
        (0, ["resume=best"], "resume=best: no such run; resume=latest continues"),
        (2, ["+model.x=1"], "model.x=1: unknown key"),
        (2, ["phase=tune", "+search.trials=3"], "search.trials: only phase=search takes this key"),
        (9, ["phase=tuen"], "phase=tuen: unknown phase (did you mean 'tune'?); known: chat,"),
        (9, ["experiment=tinny"], "experiment=tinny: unknown experiment (did you mean 'tiny'?)"),
        (10, ["lr=${nothing}"], "lr: Interpolation key 'nothing' not found"),
        (0, ["lr=1e-3,2e-3"], "lr=1e-3,2e-3: several values; add -m"),
        (0, ["lr=[1,2"], "lr=[1,2: its brackets don't match"),
        (
            0,
            ["model.stack.9.x=1"],
            "model.stack.9: unknown layer '9'; there is: tokens, positions,",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(lab, row, argv, said):
    answer = lab(*argv)
    assert (answer.code, len(answer.lines)) == (2, 1), answer.err
    assert answer.lines[0].startswith("error: ")
    assert said in answer.err
    assert not (lab.folder / "runs").exists()


def test_rows_3_to_7_are_told_in_one_go(lab):
    answer = lab(
        *(
            "lr=1e400",
            "epochs=64.5",
            "batch_size=0",
            "seed=true",
            "model.dropout=1",
            "optimizer.type=sgdd",
        ),
        *("model.embedding_dim=130", "model.num_heads=4", "clip_norm=-1", "keep=x"),
    )
    assert answer.code == 2
    assert [line.removeprefix("error: ").split(":")[0] for line in answer.lines] == [
        "lr=inf",
        "epochs=64.5",
        "batch_size=0",
        "clip_norm=-1",
        "seed=true",
        "keep=x",
        "model.dropout=1",
        "optimizer",
        "model.embedding_dim=130",
    ]


def test_whole_floats_are_taken(lab):
    assert lab("phase=tune", "epochs=1e3").code == 0
    assert lab.calls[0].epochs == 1000


def test_a_key_twice_in_ones_own_yaml_is_named(lab):
    folder = lab.folder / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "double.yaml").write_text("# @package _global_\nlr: 1\nseed: 1\nlr: 2\n")
    answer = lab("--config-dir", "mine", "experiment=double")
    assert answer.code == 2
    assert "double.yaml:4: found duplicate key lr" in answer.err
    assert len(answer.lines) == 1


def test_an_alias_bomb_is_refused_before_it_goes_off(lab):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path = lab.folder / "mine" / "experiment" / "bomb.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))
    for flags in (["--config-dir", "mine"], ["--config-dir=mine"], ["-cd", "mine"]):
        answer = lab(*flags, "experiment=bomb")
        assert answer.code == 2
        assert "bomb.yaml: its aliases expand to" in answer.err
    path.write_text("# @package _global_\ndata: &a {pretrain: {shuffle: false}}\nstages: {}\n")
    assert lab("--config-dir", "mine", "experiment=bomb").code == 0


@pytest.mark.parametrize("argv", [["x=" + "[" * 900], ["lr=" + "[" * 900 + "]" * 900], ["lr=[["]])
def test_what_hydra_cannot_read_names_the_key(lab, argv):
    answer = lab(*argv)
    assert answer.code == 2
    assert len(answer.lines) == 1
    assert answer.err.startswith(f"error: {argv[0][:5]}")
    assert len(answer.err) < 300


def test_a_key_that_is_there_is_not_called_unknown(lab):
    answer = lab("~lr=abc")
    assert answer.code == 2
    assert answer.lines == [
        "error: lr: can't be removed like this, or exists already; write lr=VALUE"
    ]


def test_a_group_that_is_given_a_number_is_named(lab):
    answer = lab("+experiment=1000000000000000000000000000000")
    assert answer.code == 2
    assert answer.err.startswith("error: +experiment=1000000000000000000000000000000: expected the")
    assert len(answer.lines) == 1


def test_a_sweep_without_a_job_is_refused(lab):
    answer = lab("-m", "seed=glob(*)", "phase=tune")
    assert answer.code == 2
    assert "error: -m seed=glob(*) phase=tune: a sweep without jobs; give values" in answer.lines
    assert not list(lab.folder.glob("runs/sweeps/*"))


@pytest.mark.slow
def test_the_name_of_a_folder_is_no_reference(lab, monkeypatch, tmp_path):
    here = tmp_path / "${oc.env:HOME}"
    here.mkdir()
    monkeypatch.chdir(here)
    assert lab("phase=tune").code == 0
    assert lab("-m", "phase=tune", "lr=1,2").code == 0
    assert len(list(here.glob("runs/tune/*/run.json"))) == 1
    assert len(list(here.glob("runs/sweeps/*/*/run.json"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["${oc.env:HOME}"]
    assert lab("resume=latest", "lr=3").code == 0
    own = here / "mine" / "experiment"
    own.mkdir(parents=True)
    (own / "odd.yaml").write_text("# @package _global_\nlr: 4\n")
    assert lab("--config-dir", "mine", "experiment=odd", "phase=tune").code == 0
    assert lab("resume=latest").code == 0
    assert lab.calls[-1].lr == 4


# free text


TEXTS = [
    "What's rain, really (2+2=4)?",
    "${oc.env:HOME}",
    "say \"yes\" or 'no'",
    "[a, b] {c: d}",
    "a=b==c",
    "ends with a backslash \\",
    "C:\\new\\${x}\\'",
    "rain ☔ and 雪 and 🌧",
    "null",
    "???",
    "two\nlines\tand a tab",
    "",
]


@pytest.mark.every_day(2)
@pytest.mark.parametrize("start", range(0, len(TEXTS), 3))
def test_free_text_arrives_as_it_was_typed(lab, start):
    prompt, source, target = TEXTS[start : start + 3]
    answer = lab(
        *("phase=generate", "checkpoint=null"),
        *(f"prompt={prompt}", f"source={source}", f"target={target}"),
    )
    assert answer.code == 0
    config = lab.calls[0]
    assert (config.prompt, config.source, config.target) == (prompt, source, target)


def test_paths_arrive_as_they_were_typed(lab):
    name = "odd, (name) [x]=${y}'s.txt"
    assert lab("phase=tune", f"data.tune.path={name}", "hydra.run.dir=my, 'runs'").code == 0
    assert lab.calls[0].data["tune"]["path"] == str(lab.folder / name)
    assert lab.calls[0].tokenizer["corpus"][1] == str(lab.folder / name)
    assert (lab.folder / "my, 'runs'" / "run.json").exists()


PLUGIN = '''
from llmlab.layers.base import LAYERS
from llmlab.layers.norms import LayerNorm

@LAYERS.register("norm_of_ones_own")
class Mine(LayerNorm):
    """A norm of one's own."""
'''


@pytest.mark.slow
def test_a_layer_of_ones_own_takes_a_file_a_decorator_and_a_line(lab, monkeypatch):
    monkeypatch.setattr(LAYERS, "_factories", dict(LAYERS._factories))
    (lab.folder / "my_layers.py").write_text(PLUGIN)
    line = "model.stack.blocks.layers.attention.norm.type=norm_of_ones_own"
    assert "unknown layer 'norm_of_ones_own'" in lab("phase=tune", line).err
    assert lab("phase=tune", line, "plugins=my_layers.py").code == 0
    (config,) = lab.calls
    stack = build_stack(config.model["stack"], vocab_size=9, embedding_dim=128, max_seq_len=80)
    assert type(stack.children()["blocks.0"].children()["attention"].norm).__name__ == "Mine"


# runs


def test_a_run_is_recorded_and_where_it_lies_is_said(lab):
    answer = lab("phase=tune", "lr=3e-4", "data.tune.path=my.txt")
    (run,) = runs(lab, "tune")
    assert f"run: {run.relative_to(lab.folder)}" in answer.out
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["results"]["loss"] == 3e-4
    assert record["argv"] == ["phase=tune", "lr=3e-4", "data.tune.path=my.txt"]
    assert record["overrides"][2] == f"++data.tune.path='{lab.folder}/my.txt'"
    assert "lr: 0.0003" in (run / "config.yaml").read_text()
    assert not (run / ".hydra").exists()


def test_phases_that_train_nothing_leave_no_folder(lab):
    assert lab("phase=list").code == 0
    assert lab("phase=chat", "checkpoint=null").code == 0
    assert list(lab.folder.iterdir()) == []


def test_two_starts_in_one_second_are_two_runs(lab, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form, *rest: "20260101-000000")
    lab("phase=tune")
    lab("phase=tune")
    assert len(runs(lab, "tune")) == 2


def test_a_new_run_into_a_folder_that_holds_one_is_refused(lab):
    assert lab("phase=tune", "hydra.run.dir=here").code == 0
    answer = lab("phase=tune", "hydra.run.dir=here")
    assert answer.code == 2
    assert "resume=" in answer.err
    assert len(lab.calls) == 1


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    ("seed", "code", "said"),
    [
        (FAILING, 1, "error: loss was not finite"),
        (BROKEN, 1, "error: RuntimeError: a defect"),
        (STOPPED, 143, "saved step 5"),
        (INTERRUPTED, 130, "stopped"),
    ],
)
def test_a_run_that_ends_early_says_how_to_go_on(lab, seed, code, said):
    answer = lab("phase=tune", f"seed={seed}")
    (run,) = runs(lab)
    assert answer.code == code
    assert answer.lines[0].startswith(said)
    command = f"continue with: python -m llmlab resume={run.relative_to(lab.folder)}"
    assert answer.lines[-1] == command
    assert "Traceback" not in answer.err
    assert "Error executing job" not in answer.err
    if seed == BROKEN:
        assert f"the traceback is in {run.relative_to(lab.folder)}/log" in answer.lines
        assert "RuntimeError: a defect" in (run / "log").read_text()


def test_ctrl_c_while_hydra_reads_yaml_is_no_error_of_what_was_typed(lab, monkeypatch):
    def interrupted(*_args, **_keys):
        try:
            raise KeyboardInterrupt
        finally:
            raise UnboundLocalError("file")  # as where it closes what it hasn't opened yet

    loader = "hydra._internal.config_loader_impl.ConfigLoaderImpl.load_configuration"
    monkeypatch.setattr(loader, interrupted)
    answer = lab("phase=chat", "checkpoint=null")
    assert (answer.code, answer.lines) == (130, ["stopped"])


def test_debug_shows_the_traceback(lab, monkeypatch):
    monkeypatch.setenv("LLMLAB_DEBUG", "1")
    answer = lab("phase=tune", f"seed={BROKEN}")
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert "RuntimeError: a defect" in answer.err


def test_a_defect_without_a_run_says_how_to_see_it(lab):
    answer = lab("phase=chat", "checkpoint=null", f"seed={BROKEN}")
    assert answer.lines == ["error: RuntimeError: a defect; LLMLAB_DEBUG=1 shows the traceback"]


def test_a_folder_that_cannot_be_made_is_the_environments_fault(lab):
    (lab.folder / "file").write_text("")
    answer = lab("phase=tune", "hydra.run.dir=file/below")
    assert (answer.code, len(answer.lines)) == (5, 1)
    assert "file/below" in answer.err


def test_logging_is_as_it_was_afterwards(lab):
    import logging

    before = logging.getLogger().handlers[:], logging.getLogger().level
    lab("phase=chat", "checkpoint=null")
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
    assert "HYDRA_FULL_ERROR" not in os.environ


# the real thing, in a process of its own


def shell(command, folder):
    package = str(Path(llmlab.__file__).parent.parent)  # also when it isn't installed
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(tmp_path):
    command = f"{sys.executable} -m llmlab phase=list | true; echo ${{PIPESTATUS[0]}}"
    done = shell(f"bash -c '{command}'", tmp_path)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_starting_is_quick_because_rooms_are_imported_when_needed(tmp_path):
    done = shell(
        f"{sys.executable} -c \"import sys; from llmlab.cli import main; main(['--version']); "
        "print(sorted({'numpy', 'hydra', 'omegaconf', 'yaml'} & set(sys.modules)))\"",
        tmp_path,
    )
    assert done.stdout.splitlines()[1] == "[]", done.stderr


def test_python_314_checks_help_texts_only_where_they_are_text(monkeypatch):
    checked = []

    def check(self, action):
        checked.append(action.help % {})

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    survive_python_314()
    survive_python_314()
    parser = argparse.ArgumentParser()
    for text in ("a text", LazyHelp()):
        parser._check_help(argparse.Action(["--x"], "x", help=text))
    assert checked == ["a text"]


class LazyHelp:
    """As Hydra's help of --shell-completion: an object that becomes text when it is asked."""
