"""Phases `import` and `export` through the command line."""

import json
import sys

import numpy as np
import pytest
from hf_folders import GPT2, LLAMA, char_tokenizer, gpt2_tensors, llama_tensors, write

from llmlab.checkpoints import load
from llmlab.cli import main

pytestmark = pytest.mark.slow

TEXT = "abc abd\nabe cab\nbad dab\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return (exit code, standard output, errors) of a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # Hydra composes everything once only to read hydra.mode; these tests do without.
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda self, **given: None)

    def call(*argv):
        capsys.readouterr()
        code = main(list(argv))
        seen = capsys.readouterr()
        return code, seen.out, [line for line in seen.err.splitlines() if "error:" in line]

    return call


@pytest.fixture
def source(tmp_path):
    folder = write(tmp_path / "source", LLAMA, llama_tensors())
    (folder / "tokenizer.json").write_text(json.dumps(char_tokenizer()))
    return folder


@pytest.mark.slow
def test_an_imported_model_works_with_every_phase(run, source, tmp_path):
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    (tmp_path / "text.txt").write_text(TEXT)
    code, out, _ = run("phase=import", "source=source", "target=kept/in.npz")
    assert code == 0 and "llama: " in out and "vocabulary 11" in out
    (path,) = tmp_path.glob("runs/import/*/checkpoints/step-000000.npz")
    assert path.read_bytes() == (tmp_path / "kept" / "in.npz").read_bytes()
    meta = load(path).meta
    assert (meta["stage"], meta["step"], meta["tokenizer"]["type"]) == ("import", 0, "bpe")
    assert str(tmp_path) not in json.dumps(meta)

    ask = ("template=none", "prompt=abc", "max_new_tokens=4")
    assert run("phase=generate", *ask)[0] == 0  # of the latest run, which is the import
    assert run("phase=score", *ask[:2], "checkpoint=kept/in.npz")[0] == 0
    code, out, _ = run("phase=evaluate", "on=text.txt", "threads=1")
    assert code == 0 and "nats per token" in out
    assert run("phase=verify", f"checkpoint={path.parents[1]}")[0] == 0

    data = ("data.pretrain.path=text.txt", "data.tune.path=text.txt", "threads=1", "steps=2")
    latest = "checkpoint=latest"
    assert run("phase=pretrain", latest, *data, "hydra.run.dir=more")[0] == 0
    assert run("resume=more", "steps=3")[0] == 0
    trained = load(tmp_path / "more" / "checkpoints" / "step-000003.npz")
    moved = [
        name
        for name, array in load(path).arrays.items()
        if not np.array_equal(array, trained.arrays[name])
    ]
    assert "params/blocks.1.attention.qkv.weight" in moved

    assert run("phase=export", "checkpoint=more", "target=out/deep")[0] == 0
    assert run("phase=import", "source=out/deep", "target=again.npz")[0] == 0
    again = load("again.npz").arrays
    kept = {name: a for name, a in trained.arrays.items() if name.startswith("params/")}
    assert again.keys() == kept.keys()
    assert all(again[name].tobytes() == kept[name].tobytes() for name in kept)
    code, _, errors = run("phase=export", "checkpoint=more", "target=out/deep")
    assert code == 2 and "something already" in errors[0]
    code, _, errors = run("phase=export", "checkpoint=more", "target=/")
    assert code == 2 and "target=/: there is something already" in errors[0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["deep"]


@pytest.mark.slow
def test_damaged_folders_end_with_4_and_one_line_and_leave_no_run(run, source, tmp_path):
    whole = source / "model.safetensors"
    sound, config = whole.read_bytes(), (source / "config.json").read_text()
    for name, content, said in (
        ("model.safetensors", sound[:-1], "damaged"),
        ("model.safetensors", (2**62).to_bytes(8, "little") + sound[8:], "header"),
        ("config.json", b"{}", "model_type"),
        ("config.json", config.replace("silu", "mish").encode(), "hidden_act"),
        ("config.json", config.replace("false", "true").encode(), "tied"),
        ("tokenizer.json", b"[]", "tokenizer.json"),
    ):
        whole.write_bytes(sound)
        (source / "config.json").write_text(config)
        (source / name).write_bytes(content)
        code, out, errors = run("phase=import", "source=source")
        assert (code, out, len(errors)) == (4, "", 1) and said in errors[0], errors
    assert not list(tmp_path.glob("runs/import/*"))


@pytest.mark.slow
def test_what_does_not_go_together_is_a_configuration_error(run, source, tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "there.npz").touch()
    for keys, said in (
        ((), "source: missing"),
        (("source=source", "target=there.npz"), "there already"),
        (("source=source", "target=file.bin"), "*.npz"),
        (("source=source", "model.num_blocks=3"), "model.num_blocks"),
        (("source=source", "model.max_seq_len=17"), "16 at most"),
    ):
        code, _, errors = run("phase=import", *keys)
        assert code == 2 and said in errors[0], errors
    code, out, _ = run("phase=import", "source=source", "model.max_seq_len=8", "target=short.npz")
    assert code == 0 and "up to 8 tokens" in out
    code, _, errors = run("resume=short.npz")
    assert code == 2 and "nothing to continue" in errors[0]
    code, _, errors = run("phase=export", "checkpoint=short.npz")
    assert code == 2 and "target: missing" in errors[0]
    learned = write(tmp_path / "learned", GPT2, gpt2_tensors())
    (learned / "tokenizer.json").write_text(json.dumps(char_tokenizer()))
    code, _, errors = run("phase=import", "source=learned", "model.max_seq_len=8")
    assert code == 2 and "has learned 12 positions" in errors[0]


def test_a_model_without_a_form_there_is_refused_by_name(run, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    data = ("data.pretrain.path=text.txt", "data.tune.path=text.txt", "threads=1", "steps=1")
    sizes = ("model.embedding_dim=8", "model.hidden_dim=8", "model.num_blocks=1")
    assert run("phase=pretrain", *data, *sizes)[0] == 0
    code, _, errors = run("phase=export", "target=out")
    assert code == 4 and len(errors) == 1 and "post_norm" in errors[0]
    assert not (tmp_path / "out").exists()


def test_the_extra_is_named_where_it_is_missing(run, source, tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    assert run("phase=import", "source=source", "target=in.npz")[0] == 0
    monkeypatch.setitem(sys.modules, "safetensors", None)
    code, _, errors = run("phase=export", "checkpoint=in.npz", "target=out")
    assert code == 5 and "llmlab[hf]" in errors[0]
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    code, _, errors = run("phase=import", "source=source")
    assert code == 5 and "llmlab[hf]" in errors[0]
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (("<|im_start|>", "<|im_end|>"), "chatml"),
        ((), "none"),
    ],
)
def test_the_template_follows_from_the_special_tokens(run, source, tokens, name):
    pytest.importorskip("tokenizers")
    content = char_tokenizer(11 - len(tokens))
    for token in tokens:
        content["added_tokens"].append(
            content["added_tokens"][0] | {"id": len(content["model"]["vocab"]), "content": token}
        )
        content["model"]["vocab"][token] = len(content["model"]["vocab"])
    (source / "tokenizer.json").write_text(json.dumps(content))
    code, out, _ = run("phase=import", "source=source", "target=in.npz")
    assert code == 0 and f"template {name}" in out
    assert load("in.npz").meta["config"]["template"] == name
    assert run("phase=import", "source=source", "template=none", "target=raw.npz")[0] == 0
    assert load("raw.npz").meta["config"]["template"] == "none"


@pytest.mark.slow
def test_float64_and_running_means_go_out_as_they_are_used(run, source, tmp_path):
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    write(source, LLAMA, llama_tensors(), "F64")
    assert run("phase=import", "source=source", "target=wide.npz")[0] == 0
    assert load("wide.npz").arrays["params/norm.weight"].dtype == np.float64
    assert run("phase=export", "checkpoint=wide.npz", "target=wide")[0] == 0
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float64"
    assert run("phase=import", "source=wide", "target=again.npz")[0] == 0
    wide, again = load("wide.npz").arrays, load("again.npz").arrays
    assert all(again[name].tobytes() == array.tobytes() for name, array in wide.items())

    (tmp_path / "text.txt").write_text(TEXT)
    data = ("data.pretrain.path=text.txt", "data.tune.path=text.txt", "threads=1", "steps=3")
    more = ("phase=pretrain", "checkpoint=wide.npz", "ema=0.9", "lr=1e-2", "hydra.run.dir=more")
    assert run(*more, *data)[0] == 0
    arrays = load(tmp_path / "more" / "checkpoints" / "step-000003.npz").arrays
    assert run("phase=export", "checkpoint=more", "target=mean")[0] == 0
    assert run("phase=import", "source=mean", "target=mean.npz")[0] == 0
    found = load("mean.npz").arrays["params/norm.weight"]
    np.testing.assert_array_equal(found, arrays["ema/norm.weight"])
    assert not np.array_equal(found, arrays["params/norm.weight"])
