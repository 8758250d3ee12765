"""README and docs: their code prints what they say, their commands run, their links lead somewhere.

`python tests/docs/test_docs.py` writes what the code of docs/tour.md prints into it.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import tomllib

import pytest
from pages import FENCE, ROOT, commands

from llmlab.cli import main
from llmlab.cli.arguments import split
from llmlab.cli.start import compose
from llmlab.optim import OPTIMIZERS, SCHEDULES

TOUR = ROOT / "docs" / "tour.md"
PAGES = [
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md"
]


def pages(test):
    return pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))(test)


# the tour


def outputs(text):
    """Run the Python blocks one after the other; yield (code, what it printed)."""
    names = {"__name__": "tour"}
    for language, code in FENCE.findall(text):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(TOUR), "exec"), names)
            yield code, printed.getvalue()


def with_outputs(text):
    """Return the tour with what its code prints in the blocks below the code."""
    found = iter(list(outputs(text)))
    printed = ""

    def replaced(match):
        nonlocal printed
        if match[1] == "python":
            _, printed = next(found)
            return match[0]
        shown, printed = printed, ""
        return f"```{match[1]}\n{shown}```"

    return FENCE.sub(replaced, text)


def test_the_tour_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TOUR.read_text(encoding="utf-8")
    blocks = FENCE.findall(text)
    assert [language for language, _ in blocks] == ["python", "text"] * (len(blocks) // 2)
    assert len(blocks) > 20
    for (code, printed), (_, said) in zip(outputs(text), blocks[1::2], strict=True):
        trimmed = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
        assert printed == trimmed, f"spaces at a line's end, which editors remove, after:\n{code}"
        assert said == printed, f"{TOUR.name} says something else than is printed by:\n{code}"
        assert not re.search(r"-0\.?0*(\s|\])", printed), f"a -0, which may be 0 elsewhere:\n{code}"


# links and files


@pages
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), f"{page.name} links to {target}"
        if heading:
            assert heading in headings(found), f"{page.name} links to {target}"


def test_every_page_of_docs_is_in_its_list():
    linked = set(
        re.findall(r"\]\((\w[\w-]*\.md)\)", (ROOT / "docs" / "README.md").read_text("utf-8"))
    )
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def test_the_source_distribution_has_all_pages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {f"/{path.name}" for path in ROOT.glob("*.md")} | {"/docs"} <= set(included)


def test_every_optimizer_and_schedule_is_documented():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    titles = set(re.findall(r"^### `(\w+)`$", text, re.MULTILINE))
    for registry in (OPTIMIZERS, SCHEDULES):
        own = {n for n, f in registry._factories.items() if f.__module__.startswith("llmlab.")}
        assert own <= titles, (registry.kind, own - titles)
    assert {"ema", "label_smoothing", "patience", "clip_norm"} <= titles


def headings(page):
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_the_files_that_are_named_exist(page):
    """Paths of this repository in running text and commands, without links and placeholders."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"(?<![\w/.-])((?:conf|llmlab|tests|docs|data|benchmarks)/[\w/.-]+\.\w+)", text
    )
    missing = {path for path in named if "/my_" not in path and not (ROOT / path).exists()}
    assert not missing


@pages
def test_the_presets_that_are_named_exist(page):
    groups = [path.name for path in (ROOT / "conf").iterdir() if path.is_dir()]
    text = page.read_text(encoding="utf-8")
    for group, name in re.findall(rf"(?<![.\w])({'|'.join(groups)})=(\w+)\b(?!\()", text):
        known = (ROOT / "conf" / group / f"{name}.yaml").exists()
        assert known or name in ("null", "best") or name.startswith("my_"), f"{group}={name}"


# commands

# Full-size trainings take this instead of what they say; every other command runs as it stands.
SHORT = {"steps": "2", "experiment": "tiny", "chat": "false"}
TRAINS = ("full", "pretrain", "tune")
FILES = dict.fromkeys(("my.txt", "input.txt"), "One line.\nAnother line, of mine.\n")


def shortened(argv):
    """Return a command that trains small networks, at most two, for two steps."""
    keys = dict(word.split("=", 1) for word in argv if "=" in word)
    if keys.get("phase", "full") not in TRAINS or "resume" in keys or "--help" in argv:
        return argv
    swept = [key for key, value in keys.items() if "-m" in argv and "," in value]
    for key in swept[:-1]:
        keys[key] = keys[key].split(",")[0]
    for key in swept[-1:]:
        keys[key] = ",".join(keys[key].split(",")[:2])
    keys.pop("epochs", None)
    flags = [word for word in argv if "=" not in word]
    return flags + [f"{key}={value}" for key, value in (keys | SHORT).items()]


def run_commands(argvs, folder, monkeypatch, capsys):
    """Run commands one after the other in a folder, as a reader does."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for name, text in FILES.items():
        (folder / name).write_text(text)
    done = set()
    for argv in argvs:
        if tuple(argv) not in done:
            code = main(argv)
            assert code == 0, f"python -m llmlab {shlex.join(argv)}\n{capsys.readouterr().err}"
            capsys.readouterr()
        done.add(tuple(argv))


def test_commands_are_found_in_shell_blocks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\npip install . && python -m llmlab  # all\npython -m llmlab -m \\\n  lr=1,2\n"
        "echo hi | python -m llmlab phase=chat > out\npython -m pytest\n```\n"
        '```text\npython -m llmlab x=1\n```\n```sh\npython -m llmlab prompt="a b"\n```\n'
    )
    assert commands(page) == [[], ["-m", "lr=1,2"], ["phase=chat"], ["prompt=a b"]]
    assert shortened(["epochs=9"]) == ["steps=2", "experiment=tiny", "chat=false"]
    assert shortened(["-m", "lr=1,2", "seed=1,2,3"])[:3] == ["-m", "lr=1", "seed=1,2"]
    assert shortened(["phase=generate"]) == ["phase=generate"]
    assert shortened(["resume=latest"]) == ["resume=latest"]


def test_the_preset_of_the_readme_is_what_it_says(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ((_, code),) = [block for block in FENCE.findall(text) if block[0] == "yaml"]
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "my_model.yaml").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert main(["--config-dir", "my_conf", "model=my_model", "phase=summary"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    parameters = {row[0]: row[4] for row in rows if row[0].startswith(("waves", "blocks"))}
    assert "positions" not in [row[0] for row in rows]
    assert parameters["waves"] == "0"
    assert parameters["blocks.1.feed_forward"] != parameters["blocks.2.feed_forward"]


NEEDED = {"generate": "prompt", "score": "prompt", "import": "source", "export": "target"}


def written(page):
    """Return the commands of a page: in shell blocks, in blocks of text, and within sentences."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for _, code in FENCE.findall(text) for line in code.splitlines()]
    within = re.findall(r"`([^`]+)`", FENCE.sub("", text).replace("\n", " "))
    within = [re.sub(r"^(?=phase=)", "python -m llmlab ", each) for each in within]
    for line in [*lines, *within]:
        if match := re.match(r"python -m llmlab((?: .*)?)$", line.strip()):
            words = shlex.split(match[1], comments=True)
            ends = [i for i, word in enumerate(words) if word in ("|", ">", "&", "&&")]
            yield words[: min(ends, default=None)]


@pytest.mark.slow
@pages
def test_every_command_that_is_written_can_be_typed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmlab.runs.lookup.resolve_checkpoint", lambda value: tmp_path / "x.npz")
    for argv in written(page):
        flags, overrides = split(argv)
        keys = {override.name: override.value for override in overrides}
        needed = NEEDED.get(keys.get("phase"))
        alone = len(keys) == 1  # a name, not a command
        assert needed is None or needed in keys or alone, f"{page.name}: {shlex.join(argv)}"
        if flags or not {"resume", "plugins", "launcher"}.isdisjoint(keys):
            continue
        if keys.get("phase") == "search":
            continue  # the space of a search is no configuration
        compose(*(word for word in argv if word != "data.pretrain.path=FILE"))


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    found = commands(ROOT / "README.md")
    assert [] in found, "README.md doesn't say: python -m llmlab"
    assert len(found) >= 5
    run_commands([shortened(argv) for argv in found], tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generation.md", "text.md", "watching.md"])
def test_the_commands_and_the_code_of_a_page_run(name, tmp_path, monkeypatch, capsys):
    page = ROOT / "docs" / name
    found = [shortened(argv) for argv in commands(page)]
    assert len(found) >= 2
    run_commands([shortened([]), *found], tmp_path, monkeypatch, capsys)
    printed = [text for _, text in outputs(page.read_text(encoding="utf-8"))]
    assert len(printed) == (name == "generation.md") and all(printed)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_full_size(tmp_path, monkeypatch, capsys):
    run_commands(commands(ROOT / "README.md"), tmp_path, monkeypatch, capsys)


if __name__ == "__main__":
    before = TOUR.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        after = with_outputs(before)
    TOUR.write_text(after, encoding="utf-8")
    print("unchanged" if before == after else f"{TOUR} rewritten")
