"""The command line before Hydra: flags, mistakes, free text, paths."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmlab.cli.arguments import Override, is_sweep, parts, quoted, split, token, typed_keys
from llmlab.errors import ConfigError

PARSER = OverridesParser.create()


def after_hydra(text):
    """Return the value that a job gets for `key=text`, also when it went through a sweep."""
    values = []
    first = PARSER.parse_override(text)
    for override in (first, PARSER.parse_override(f"k={first.get_value_element_as_str()}")):
        cfg = OmegaConf.create({"k": None})
        OmegaConf.update(cfg, "k", override.value())
        values.append(OmegaConf.to_container(cfg, resolve=True)["k"])
    assert values[0] == values[1]
    return values[0]


ALPHABET = st.sampled_from(
    ["\\", "'", '"', "${", "}", "$", "${oc.env:HOME}", *"a ,=[](){}:\n\té😀#~+@%"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ALPHABET, max_size=9).map("".join))
def test_free_text_comes_out_as_it_went_in(text):
    assert after_hydra(f"k={quoted(text)}") == text


def test_run_folders_keep_hydras_interpolations():
    given = token(Override.of("hydra.run.dir=out/it's ${now:%Y}"))
    cfg = OmegaConf.create({"k": PARSER.parse_override(given).value()})
    OmegaConf.register_new_resolver("now", lambda form: f"<{form}>", replace=True)
    assert cfg.k == "out/it's <%Y>"


def test_flags_and_overrides_are_told_apart():
    flags, overrides = split(["-m", "lr=1", "--config-dir", "x=y", "+a.b=c=d", "~e", "-p=job"])
    assert flags == ["-m", "--config-dir", "x=y", "-p=job"]
    assert overrides == [
        Override("", "lr", "1"),
        Override("+", "a.b", "c=d"),
        Override("~", "e", None),
    ]
    assert split(["--info", "defaults-tree", "-i", "lr=1"])[0] == ["--info", "defaults-tree", "-i"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lr", "5e-4"], "lr 5e-4: write lr=5e-4"),
        (["--lr=5e-4"], "--lr=5e-4: write lr=5e-4"),
        (["--lr", "5e-4"], "lr 5e-4: write lr=5e-4"),
        (["-lr=5e-4"], "--lr=5e-4: write lr=5e-4"),
        (["lr"], "lr: expected key=value"),
        (["phase=tune", "rain?"], "rain?: expected key=value"),
        (["what is=this"], "what is=this: expected key=value"),
        (["--experimental-rerun=x"], "pickle"),
        (
            ["prompt=What", "causes", "rain?"],
            "prompt=What causes rain?: a text with spaces needs quotes: prompt='What causes rain?'",
        ),
        (["prompt", "What", "is", "it?"], "prompt What is it?: write prompt='What is it?'"),
    ],
)
def test_mistakes_say_how_it_is_written(argv, said):
    with pytest.raises(ConfigError) as caught:
        split(argv)
    assert said in caught.value.problems[0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--run", "-m"], "--run --multirun: these exclude each other"),
        (["-m", "--cfg", "job"], "--multirun --cfg: each asks"),
        (["--resolve"], "--resolve: only works with --cfg"),
        (["~=1"], "~=1: expected key=value"),
        (["+=1"], "+=1: expected key=value"),
        (["lr=1", "--config-dir"], "--config-dir: needs a value"),
        (["-cn"], "-cn: needs a value"),
        (["hydra.mode=RUN", "-m", "lr=1"], "-m hydra.mode=RUN"),
        (["hydra.mode=maybe"], "expected RUN or MULTIRUN"),
        (["hydra.run.dir="], "hydra.run.dir=: no folder"),
        (["hydra.sweep.dir=null"], "hydra.sweep.dir=null: no folder"),
        (["resume=a", "hydra.run.dir=b"], "hydra.run.dir=b: resume=a has its folder"),
    ],
)
def test_contradictions_are_refused(argv, said):
    with pytest.raises(ConfigError) as caught:
        split(argv)
    assert said in caught.value.problems[0]
    assert len(caught.value.problems) == 1


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        split(["prompt=a", "b", "c", "lr", "1", "checkpoint=x", "y.npz", "-m", "z"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "prompt=a b c lr 1",
        "checkpoint=x y.npz",
        "z",
    ]
    with pytest.raises(ConfigError) as caught:
        split(["lr", "5e-4", "--seed=1", "phase=tune"])
    assert len(caught.value.problems) == 2


def tokens(*argv, sweep=False):
    return [after_hydra(token(override, sweep)) for override in split(argv)[1]]


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert tokens("checkpoint=a b.npz", "data.tune.path=~/x,y.txt", "on=z.txt") == [
        f"{tmp_path}/a b.npz",
        "/home/me/x,y.txt",
        f"{tmp_path}/z.txt",
    ]
    assert tokens("checkpoint=null", "on=tune", "source=gpt2", "checkpoint=latest") == [
        None,
        "tune",
        "gpt2",
        "latest",
    ]


def test_every_documented_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = tokens("tokenizer.path=my (1).json", "data.tune.cache=a, b", "data.tune.cache=null")
    assert found == [f"{tmp_path}/my (1).json", f"{tmp_path}/a, b", None]
    assert tokens("tokenizer.corpus=a (1).txt", "tokenizer.corpus=[a.txt, 'b,c.txt']") == [
        [f"{tmp_path}/a (1).txt"],
        [f"{tmp_path}/a.txt", f"{tmp_path}/b,c.txt"],
    ]
    given = token(Override.of("tokenizer.corpus=[${data.tune.path},it's.txt]"))
    cfg = OmegaConf.create({"data": {"tune": {"path": "/x"}}})
    OmegaConf.update(cfg, "k", PARSER.parse_override(given).value())
    assert OmegaConf.to_container(cfg.k, resolve=True) == ["/x", f"{tmp_path}/it's.txt"]
    swept = PARSER.parse_override(token(Override.of("tokenizer.corpus=[a,b],[c]"), sweep=True))
    assert swept.is_sweep_override()
    assert [[path.text for path in each] for each in swept.value().list] == [
        [f"{tmp_path}/a", f"{tmp_path}/b"],
        [f"{tmp_path}/c"],
    ]


def test_in_a_sweep_a_comma_separates_paths_but_never_prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    override = PARSER.parse_override(token(Override.of("checkpoint=a.npz,'b,c.npz'"), sweep=True))
    assert override.is_sweep_override()
    assert [value.text for value in override.value().list] == [
        f"{tmp_path}/a.npz",
        f"{tmp_path}/b,c.npz",
    ]
    assert tokens("prompt=yes, or no", sweep=True) == ["yes, or no"]


def test_parts_are_split_at_commas_outside_quotes():
    assert parts("a,'b,c', d") == ["a", "b,c", "d"]
    assert parts("it's") == ["it's"]
    assert parts("") == [""]


def test_plugins_are_a_list_with_or_without_brackets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = [f"{tmp_path}/my layers.py", "package.module"]
    assert tokens("plugins=[my layers.py, package.module]") == [expected]
    assert tokens("plugins=my layers.py,package.module") == [expected]
    assert tokens("plugins=my layers.py") == [expected[:1]]
    assert tokens("plugins=[]") == [[]]


def test_arguments_of_registered_parts_need_no_plus():
    texts = [
        "optimizer.decay=1",
        "model.stack.positions.x=1",
        "data.tune.y=1",
        "model.x=1",
        "+lr=1",
    ]
    given = [token(Override.of(text)) for text in texts]
    assert [text.startswith("++") for text in given] == [True, True, True, False, False]


def test_a_mapping_types_the_keys_inside_it():
    texts = ["lr=1", "++a.b={type: x, init: {std: 0.1}, none: {}}", "~c.d", "optimizer=adam"]
    found = {"lr", "a.b.type", "a.b.init.std", "a.b.none", "c.d", "optimizer"}
    assert typed_keys(texts) == found


@pytest.mark.parametrize(
    ("argv", "sweep"),
    [
        (["-m"], True),
        (["--multirun", "lr=1"], True),
        (["launcher=joblib"], True),
        (["launcher=basic"], False),
        (["hydra.mode=MULTIRUN"], True),
        (["lr=1"], False),
    ],
)
def test_sweeps_are_recognised(argv, sweep):
    assert is_sweep(*split(argv)) is sweep
