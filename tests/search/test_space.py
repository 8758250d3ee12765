"""Spaces in Hydra's syntax, limits, the journal's last line, and CMA-ES without a stored state."""

from types import SimpleNamespace

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmlab.cli.search_space import _dimension
from llmlab.errors import ConfigError
from llmlab.phases.search import run
from llmlab.search.cmaes import from_unit, to_unit
from llmlab.search.space import Dimension
from llmlab.search.storage import JournalLock, check_url, cut_torn_line


def dimension(text):
    return _dimension("key", f"key={text}", OverridesParser.create())[1]


def options(**given):
    config = SimpleNamespace(metric=given.pop("metric", None), direction=None)
    return run(config, **given)["options"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("range(1,4)", Dimension(low=1, high=3, step=1, integer=True)),
        ("range(4)", Dimension(low=0, high=3, step=1, integer=True)),
        ("range(1,10,4)", Dimension(low=1, high=9, step=4, integer=True)),
        ("range(10,0,-4)", Dimension(low=2, high=10, step=4, integer=True)),
        ("range(0,1,0.25)", Dimension(low=0.0, high=0.75, step=0.25)),
        ("tag(log,range(1,9))", Dimension(low=1, high=8, step=1, log=True, integer=True)),
        ("int(interval(1,5))", Dimension(low=1, high=4, step=1, integer=True)),
        ("choice(a,[1,2],'x y')", Dimension(options=("a", "[1,2]", r"x\ y"))),
        ("1,2", Dimension(options=("1", "2"))),
    ],
)
def test_hydras_words_keep_their_meaning(text, expected):
    assert dimension(text) == expected


def test_an_interval_excludes_its_end():
    found = dimension("tag(log,interval(1e-4,1e-1))")
    assert found.low == 1e-4 and 0.0999999 < found.high < 0.1 and found.log and not found.integer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3", "one value"),
        ("interval(2,1)", "holds no value"),
        ("range(4,4)", "holds no value"),
        ("tag(log,interval(0,1))", "log needs a start above 0"),
        ("tag(log,range(1,9,2))", "steps of 1"),
        ("choice(a,a)", "twice"),
    ],
)
def test_a_space_that_is_none_is_refused(text, said):
    with pytest.raises(ConfigError, match=f"key=.*{said}"):
        dimension(text)


def test_limits_have_units():
    found = options(constraints="parameters<=1e6 memory<=2GiB flops<=3M").limits
    assert [(limit.name, limit.most) for limit in found] == [
        ("parameters", 1e6),
        ("memory", 2 * 2**30),
        ("flops", 3e6),
    ]
    assert found[0].excess({"parameters": 2_000_000}) == 1
    assert found[0].excess({"parameters": 1_000_000}) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trials": 0}, "search.trials=0"),
        ({"workers": 0}, "search.workers=0"),
        ({"phase": "chat"}, "search.phase=chat"),
        ({"constraints": "size<=3"}, "search.constraints=size<=3"),
        ({"constraints": "memory<3"}, "search.constraints=memory<3"),
        ({"constraints": "memory<=0"}, "search.constraints=memory<=0"),
        ({"objectives": ["parms"]}, "search.objectives=parms"),
        ({"objectives": ["loss"], "metric": "loss"}, "metric: "),
        ({"objectives": ["loss", "loss"]}, "each objective once"),
        ({"objectives": ["val_loss", "seconds"], "pruner": "median"}, "search.pruner"),
        ({"objectives": ["val_loss", "seconds"], "sampler": "cmaes"}, "search.sampler=cmaes"),
        ({"space": {"tokenizer": "choice(word,char)"}}, "metric=bits_per_byte"),
        ({"storage": "sqlite:///x"}, "search.storage"),
        ({"storage": "postgresql://me:secret@host/db"}, "PGPASSWORD"),
        ({"storage": "postgresql://host/db?user=me&password=secret"}, "PGPASSWORD"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, said):
    with pytest.raises(ConfigError) as refused:
        options(**given)
    assert said in str(refused.value) and "secret" not in str(refused.value)


def test_a_url_names_the_driver():
    assert check_url("postgresql://me@host/db") == "postgresql+psycopg://me@host/db"
    assert check_url("postgres:///db?host=/run") == "postgresql+psycopg:///db?host=/run"


@pytest.mark.parametrize(
    ("text", "kept"),
    [(b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nbc", b"a\n"), (b"abc", b""), (b"\n" * 3, b"\n" * 3)],
)
def test_a_torn_line_is_cut(tmp_path, text, kept):
    path = tmp_path / "journal"
    path.write_bytes(text)
    cut_torn_line(path)
    assert path.read_bytes() == kept


def test_a_torn_line_is_cut_however_long(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(b"a\n" + b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b"a\n"


def test_what_a_killed_writer_left_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("llmlab.search.storage.FOREIGN_SECONDS", 0.0)
    path = tmp_path / "journal.log"
    path.write_bytes(b"a\nb")
    (tmp_path / "journal.log.lock").symlink_to(path)
    with JournalLock(path):
        assert (tmp_path / "journal.log.lock").is_symlink()
        assert path.read_bytes() == b"a\n"
    assert not (tmp_path / "journal.log.lock").is_symlink()


def test_places_and_values_are_one_another():
    for log in (False, True):
        each = SimpleNamespace(low=0.01, high=10.0, log=log, step=None)
        values = np.geomspace(0.01, 10, 7)
        back = [from_unit(each, to_unit(each, value)) for value in values]
        np.testing.assert_allclose(back, values, rtol=1e-12)
        assert from_unit(each, 0.0) == pytest.approx(0.01) and from_unit(
            each, 1.0
        ) == pytest.approx(10.0)
    whole = SimpleNamespace(low=1, high=9, log=False, step=2)
    assert [from_unit(whole, place) for place in (0, 0.2, 0.49, 1)] == [1, 3, 5, 9]
