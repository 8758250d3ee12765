"""Damaged and hostile folders: one line each, and nothing outside the folder is read."""

import json
import os

import numpy as np
import pytest
from hf_folders import (
    GPT2,
    LLAMA,
    encoded,
    gpt2_tensors,
    llama_tensors,
    safetensors,
    write,
    write_shards,
)

from llmlab.errors import CheckpointError
from llmlab.exchange import read_folder
from llmlab.exchange.config_json import read_config
from llmlab.exchange.folder import read_arrays
from llmlab.exchange.safetensors_files import INDEX, WHOLE, find_tensors


def refused(action, *said):
    with pytest.raises(CheckpointError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1000, text
    for word in said:
        assert word in text, text


def arrays(folder, config=GPT2):
    return lambda: read_arrays(folder, read_config(config))


def test_no_folder_no_config_no_tensors(tmp_path):
    refused(lambda: read_folder(tmp_path / "nowhere"), "no folder")
    refused(lambda: read_folder(tmp_path), "config.json", "No such file")
    refused(arrays(tmp_path), WHOLE, INDEX)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(arrays(tmp_path), "pickle", "save_pretrained")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "nonsense", '{"a": 1, "a": 2}', "[" * 100_000, "\ufeff", '{"a":\xff}']
)
def test_config_that_is_no_object(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1", "replace"))
    refused(lambda: read_folder(tmp_path), "config.json")


def test_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    refused(lambda: read_folder(tmp_path), "not a regular file")
    os.mkfifo(tmp_path / WHOLE)
    refused(arrays(tmp_path), "not a regular file")


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path):
    tensors = gpt2_tensors()
    del tensors["transformer.h.1.mlp.c_fc.bias"]
    refused(arrays(write(tmp_path, GPT2, tensors)), "missing", "transformer.h.1.mlp.c_fc.bias")
    tensors = gpt2_tensors() | {"transformer.h.2.ln_1.weight": np.ones(8)}
    refused(arrays(write(tmp_path, GPT2, tensors)), "doesn't have", "transformer.h.2.ln_1.weight")
    tensors = gpt2_tensors()
    tensors["transformer.h.0.mlp.c_fc.weight"] = np.ones((32, 8))  # turned round
    refused(arrays(write(tmp_path, GPT2, tensors)), "h.0.mlp.c_fc.weight", "(32, 8)", "(8, 32)")
    many = dict(list(gpt2_tensors().items())[:3])
    refused(arrays(write(tmp_path, GPT2, many)), "and 20 more")
    twice = gpt2_tensors() | {"wte.weight": np.ones((11, 8))}
    refused(arrays(write(tmp_path, GPT2, twice)), "there twice")


def test_a_tied_flag_that_contradicts_the_head(tmp_path):
    tensors = gpt2_tensors() | {"lm_head.weight": np.ones((11, 8), np.float32)}
    refused(arrays(write(tmp_path, GPT2, tensors)), "tied", "lm_head.weight differs")
    without = llama_tensors()
    del without["lm_head.weight"]
    refused(arrays(write(tmp_path, LLAMA, without), LLAMA), "missing", "lm_head.weight")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_values_that_are_not_finite(tmp_path, bad, dtype):
    tensors = gpt2_tensors()
    tensors["transformer.ln_f.bias"][3] = bad
    refused(arrays(write(tmp_path, GPT2, tensors, dtype)), "transformer.ln_f.bias", "NaN")


HEADERS = {
    "another dtype": {"dtype": "F4"},
    "a dtype that is no number": {"dtype": "BOOL", "data_offsets": [0, 88]},
    "a shape too large": {"shape": [11, 10**15]},
    "a negative shape": {"shape": [-11, -8]},
    "a shape of words": {"shape": ["11", "8"]},
    "too many axes": {"shape": [1] * 70 + [11, 8]},
    "an end beyond the file": {"data_offsets": [0, 10**12]},
    "another tensor's bytes": {"data_offsets": [352, 704]},
    "an end before the begin": {"data_offsets": [352, 0]},
    "one offset": {"data_offsets": [0]},
    "a further key": {"code": "import os"},
}


@pytest.mark.parametrize("damage", HEADERS)
def test_damaged_headers(tmp_path, damage):
    tensors = gpt2_tensors()
    name = "transformer.wte.weight"
    entry = {"dtype": "F32", "shape": [11, 8], "data_offsets": [0, 352]} | HEADERS[damage]
    folder = write(tmp_path, GPT2, tensors, header={name: entry})
    refused(lambda: dict(find_tensors(folder)), WHOLE)


def test_headers_that_lie_about_the_file(tmp_path):
    sound = safetensors(gpt2_tensors())
    length = int.from_bytes(sound[:8], "little")
    for data in (
        b"",
        sound[:7],
        (2**63).to_bytes(8, "little") + sound[8:],  # oversized
        (99_999_999).to_bytes(8, "little") + sound[8:],
        (length + 1).to_bytes(8, "little") + sound[8:],
        (length - 1).to_bytes(8, "little") + sound[8:],
        sound[:-1],
        sound + b"\0",
        sound[: 8 + length],
    ):
        (tmp_path / WHOLE).write_bytes(data)
        refused(lambda: find_tensors(tmp_path), WHOLE)


def test_a_hole_between_tensors(tmp_path):
    data = encoded(np.ones(4), "F32")
    header = {
        n: {"dtype": "F32", "shape": [4], "data_offsets": [a, a + 16]}
        for n, a in (("a", 0), ("b", 32))
    }
    text = json.dumps(header).encode()
    (tmp_path / WHOLE).write_bytes(len(text).to_bytes(8, "little") + text + data * 3)
    refused(lambda: find_tensors(tmp_path), "begins at 32, expected 16")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..\\outside.safetensors",
        "..",
        "config.json",
        "model\0.safetensors",
        7,
        None,
    ],
)
def test_an_index_stays_in_its_folder(tmp_path, name):
    (tmp_path / "outside.safetensors").write_bytes(safetensors(gpt2_tensors()))
    placed = {"transformer.wte.weight": name}
    folder = write_shards(tmp_path / "folder", GPT2, gpt2_tensors(), placed)
    refused(lambda: find_tensors(folder), INDEX)


def test_an_index_that_disagrees_with_its_shards(tmp_path):
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    tensors = gpt2_tensors()
    for placed, said in (
        ({"transformer.wte.weight": second}, "transformer.wte.weight"),
        ({"more": first}, "more isn't in"),
        ({"more": "model-3.safetensors"}, "model-3.safetensors"),
    ):
        write_shards(tmp_path, GPT2, tensors, placed)
        refused(lambda: find_tensors(tmp_path), said)
    for index in ({}, {"weight_map": []}, {"weight_map": {}}):
        (tmp_path / INDEX).write_text(json.dumps(index))
        refused(lambda: find_tensors(tmp_path), "weight_map")
