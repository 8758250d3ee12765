"""Folders as they are found in use: what must not stop an import, and what must not get lost."""

import json
import logging
import stat

import numpy as np
import pytest
from hf_folders import GPT2, LLAMA, MISTRAL, char_tokenizer, llama_tensors, write
from hf_tokenizers import tokenizer_json

from llmlab.errors import CheckpointError
from llmlab.exchange import read_folder, write_folder
from llmlab.exchange.config_json import read_config
from llmlab.exchange.tokenizer_import import read_tokenizer
from llmlab.text import TEMPLATES, Message

pytestmark = pytest.mark.slow

HARMLESS = {
    "n_special": 0,
    "predict_special_tokens": True,
    "_num_labels": 2,
    "num_labels": 2,
    "output_past": True,
    "unsloth_fixed": True,
    "unsloth_version": "2026.1",
    "max_sequence_length": 4096,
    "neftune_noise_alpha": 5,
    "_commit_hash": "abc",
}
SOURCE = (
    "{% for m in messages %}{{ bos_token + m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant:' }}{% endif %}"
)


def folder(path, config=LLAMA, tokenizer=None, settings=None, **files):
    write(path, config, llama_tensors())
    files = {"tokenizer": tokenizer or char_tokenizer(), **files}
    files["tokenizer_config"] = {"eos_token": "</s>"} if settings is None else settings
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("base", [GPT2, LLAMA, MISTRAL])
def test_keys_that_change_nothing(base):
    assert read_config({**base, **HARMLESS}) == read_config(base)


@pytest.mark.parametrize(
    "base, keys",
    [
        (LLAMA, {"layer_types": ["full_attention"] * 2}),
        (LLAMA, {"sliding_window": None, "use_sliding_window": False}),
        (MISTRAL, {"attention_bias": False, "mlp_bias": False}),
        (MISTRAL, {"layer_types": ["sliding_attention"] * 2}),
        (MISTRAL | {"sliding_window": None}, {"layer_types": ["full_attention"] * 2}),
    ],
)
def test_keys_that_say_what_is_computed(base, keys):
    assert read_config({**base, **keys}) == read_config(base)


@pytest.mark.parametrize(
    "base, keys",
    [
        (LLAMA, {"layer_types": ["full_attention", "sliding_attention"]}),
        (LLAMA, {"layer_types": ["full_attention"]}),
        (LLAMA, {"sliding_window": 4}),
        (MISTRAL, {"layer_types": ["full_attention"] * 2}),
        (MISTRAL, {"attention_bias": True}),
        (GPT2, {"attention_bias": False}),
    ],
)
def test_keys_that_say_something_else(base, keys):
    with pytest.raises(CheckpointError, match=next(iter(keys))):
        read_config({**base, **keys})


def test_only_near_spellings_are_suggested():
    with pytest.raises(CheckpointError, match=r"hiden_act.*did you mean 'hidden_act'"):
        read_config({**LLAMA, "hiden_act": "silu"})
    with pytest.raises(CheckpointError) as caught:
        read_config({**LLAMA, "max_context_size": 3})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("where", ["file", "setting", "named"])
def test_the_chat_template_is_kept_and_written_back(tmp_path, where):
    pytest.importorskip("jinja2")
    settings = {"eos_token": "</s>", "bos_token": {"content": "a", "lstrip": False}}
    if where == "setting":
        settings["chat_template"] = SOURCE
    elif where == "named":
        settings["chat_template"] = [
            {"name": "default", "template": SOURCE},
            {"name": "tool_use", "template": "{{ 1 }}"},
        ]
    path = folder(tmp_path / "in", settings=settings)
    if where == "file":
        (path / "chat_template.jinja").write_text(SOURCE)
    found = read_folder(path)
    assert found.template["source"] == SOURCE
    template = TEMPLATES.build(found.template, "template")
    assert template.text([Message("user", "b")], reply=True) == "auser: b</s>aassistant:"
    write_folder(
        tmp_path / "out",
        model=found.model,
        arrays=found.arrays,
        tokenizer=found.tokenizer,
        template=found.template,
        stop_ids=template.stop_ids(found.tokenizer),
    )
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (written["chat_template"], written["bos_token"]) == (SOURCE, "a")
    again = read_folder(tmp_path / "out")
    assert again.template == found.template


@pytest.mark.parametrize("name", ["user_assistant", "chatml", "llama"])
def test_llmlabs_own_templates_come_back_by_name(tmp_path, name):
    pytest.importorskip("jinja2")
    from llmlab.exchange.chat_template import chat_template

    settings = {"eos_token": "</s>", "chat_template": chat_template(name)}
    assert read_folder(folder(tmp_path / "in", settings=settings)).template == name


def test_the_class_gpt2_says_whether_a_space_stands_before(tmp_path):
    pytest.importorskip("tokenizers")
    for kind in ("byte-level", "byte-level-spaced"):
        content = tokenizer_json(kind)
        rows = 1 + max(content["model"]["vocab"].values())
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        for spaced in (False, True, None):
            settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}
            settings |= {} if spaced is None else {"add_prefix_space": spaced}
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
            found = read_tokenizer(tmp_path, rows, [])
            assert found.decode(found.encode("rain")) == (" rain" if spaced else "rain")


@pytest.mark.parametrize("where", ["added_tokens", "added_tokens_decoder"])
def test_tokens_that_stand_beside_tokenizer_json(tmp_path, where):
    pytest.importorskip("tokenizers")
    settings = {"eos_token": "</s>", "additional_special_tokens": ["<|mark|>"]}
    files = {"added_tokens": {"<think>": 9, "<|mark|>": 10}}
    if where == "added_tokens_decoder":
        files = {}
        settings["added_tokens_decoder"] = {
            "1": {"content": "</s>", "special": True},
            "9": {"content": "<think>", "special": False},
            "10": {"content": "<|mark|>", "special": True},
        }
    found = read_folder(folder(tmp_path, tokenizer=char_tokenizer(9), settings=settings, **files))
    assert found.tokenizer.special_ids == {"</s>": 1, "<|mark|>": 10}
    assert found.tokenizer.encode("a<think>b") == [2, 9, 3]
    assert 10 not in found.tokenizer.encode("<|mark|>")


def test_ids_that_the_library_would_move_are_refused(tmp_path):
    pytest.importorskip("tokenizers")
    added = {"added_tokens": {"<|mark|>": 10}}
    settings = {"eos_token": "</s>", "extra_special_tokens": ["<|mark|>"]}
    with pytest.raises(CheckpointError, match="gaps"):
        read_folder(folder(tmp_path, tokenizer=char_tokenizer(7), settings=settings, **added))


def test_dropout_of_merges_is_off(tmp_path):
    pytest.importorskip("tokenizers")
    content = tokenizer_json("byte-level")
    content["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    found = read_tokenizer(tmp_path, 1 + max(content["model"]["vocab"].values()), [])
    assert len({tuple(found.encode("The rain falls from the clouds")) for _ in range(5)}) == 1


def test_every_end_token_ends_an_answer_and_is_exported(tmp_path):
    pytest.importorskip("tokenizers")
    config = LLAMA | {"eos_token_id": [1, 5]}
    found = read_folder(folder(tmp_path / "in", config, generation_config={"eos_token_id": [6, 1]}))
    assert (found.tokenizer.end_id, found.tokenizer.stop_ids) == (1, (1, 5, 6))
    assert TEMPLATES.build("none", "template").stop_ids(found.tokenizer) == [1, 5, 6]
    write_folder(
        tmp_path / "out",
        model=found.model,
        arrays=found.arrays,
        tokenizer=found.tokenizer,
        template="none",
        stop_ids=[1, 5, 6],
    )
    for name in ("config", "generation_config"):
        assert json.loads((tmp_path / f"out/{name}.json").read_text())["eos_token_id"] == [1, 5, 6]
    assert read_folder(tmp_path / "out").tokenizer.stop_ids == (1, 5, 6)


def test_the_end_may_stand_in_special_tokens_map(tmp_path):
    pytest.importorskip("tokenizers")
    tokenizer = char_tokenizer()
    tokenizer["added_tokens"] = []
    path = folder(tmp_path, tokenizer=tokenizer, settings={})
    with pytest.raises(CheckpointError, match=r"eos_token in tokenizer_config\.json"):
        read_folder(path)
    (path / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}')
    assert read_folder(path).tokenizer.end_id == 1


def test_the_tensors_may_be_read_by_those_who_may_read_the_rest(tmp_path):
    pytest.importorskip("safetensors")
    found = read_folder(folder(tmp_path / "in"))
    out = tmp_path / "out"
    write_folder(
        out,
        model=found.model,
        arrays=found.arrays,
        tokenizer=found.tokenizer,
        template="none",
        stop_ids=[1],
    )
    assert len({stat.S_IMODE(each.stat().st_mode) for each in out.iterdir()}) == 1
    assert np.isfinite(next(iter(read_folder(out).arrays.values()))).all()


HOSTILE = {
    "an endless loop": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "memory": "{% set n = namespace(x='a' * 1000) %}{% for i in range(90) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a huge text": "{{ 'a' * 9999999 }}",
    "a huge number of spaces": "{{ 'a' | center(9999999999) }}",
    "attributes": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "files": "{% include '/etc/passwd' %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nesting": "{{" + "(" * 9999 + ")" * 9999 + "}}",
    "no template": "{% if %}",
    "a name that isn't there": "{{ nobody.home }}",
    "changes of what is given": "{{ messages.append(1) }}",
    "a number": 3,
    "a megabyte": "a" * (2**20 + 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_templates_are_one_line(tmp_path, kind):
    pytest.importorskip("jinja2")
    settings = {"eos_token": "</s>", "chat_template": HOSTILE[kind]}
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template: ") as caught:
        read_folder(folder(tmp_path, settings=settings))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    from llmlab.errors import ResourceError

    monkeypatch.setattr("llmlab.text.renderer.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"llmlab\[hf\]"):
        read_folder(folder(tmp_path, settings={"eos_token": "</s>", "chat_template": "{{ 1 }}"}))


def test_named_templates_beside_the_default_are_told(tmp_path, caplog):
    pytest.importorskip("jinja2")
    named = [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]
    with caplog.at_level(logging.WARNING, "llmlab"):
        found = read_folder(
            folder(tmp_path, settings={"eos_token": "</s>", "chat_template": named})
        )
    assert found.template["source"] == "x" and "'default' is taken" in caplog.text
