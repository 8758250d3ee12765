"""LoRA in peft's form, both ways; against the library itself."""

import json

import numpy as np
import pytest
from hf_folders import GPT2, LLAMA, char_tokenizer, gpt2_tensors, llama_tensors, write

from llmlab.cli import main
from llmlab.errors import CheckpointError
from llmlab.exchange import LowRankMap, read_adapter, read_folder, write_adapter
from llmlab.layers import build_stack
from llmlab.layers.lora import ADAPTERS, columns
from llmlab.network import Network
from llmlab.params import Layout

pytestmark = pytest.mark.slow

pytest.importorskip("safetensors")
FAMILIES = {"gpt2": (GPT2, gpt2_tensors), "llama": (LLAMA, llama_tensors)}
ALL = ["q", "k", "v", "out", "up", "down"]


def network(found, adapter=None):
    """Return the stack of a folder, with an adapter if there is one, and its parameters."""
    sizes = {key: found.model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    stack = build_stack(found.model["stack"], vocab_size=11, **sizes)
    if adapter is not None:
        ADAPTERS.build(adapter, "adapter").apply(stack)
    params = Layout(stack).init(0, np.float64)
    for name, view in params.items():
        if name in found.arrays:
            view[...] = found.arrays[name]
        elif name.endswith(".b"):
            view[...] = np.random.default_rng(len(name)).standard_normal(view.shape) / 3
    return stack, params


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    config, tensors = FAMILIES[request.param]
    path = write(tmp_path / "base", config, tensors())
    (path / "tokenizer.json").write_text(json.dumps(char_tokenizer()))
    (path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return path


def written(path, found, adapter):
    """Write an adapter, and return its network and parameters."""
    stack, params = network(found, adapter)
    made = ADAPTERS.build(adapter, "adapter")
    maps = [
        LowRankMap(name, cut.start, cut.stop, a, b)
        for name, cut, a, b in made.maps(dict(params.items()), stack)
    ]
    write_adapter(path, model=found.model, vocab_size=11, maps=maps, scale=made.scale)
    return stack, params


@pytest.mark.parametrize("on", [["q", "v"], ["qkv"], ALL, ["k", "down"]])
def test_what_is_written_computes_the_same_when_it_is_read(folder, tmp_path, on):
    found = read_folder(folder)
    adapter = {"type": "lora", "rank": 2, "alpha": 3.0, "on": on}
    stack, params = written(tmp_path / "adapter", found, adapter)
    base, _ = network(found)
    spec, arrays = read_adapter(tmp_path / "adapter", found.model, 11, columns(base))
    again, other = network(found, spec)
    assert arrays.keys() == other.layout.trained.shapes.keys()
    for name, array in arrays.items():
        other[name][...] = array
    ids = np.arange(10).reshape(2, 5)
    ours = Network(stack, params, kernels="numpy").forward(ids)
    assert np.abs(ours - Network(again, other, kernels="numpy").forward(ids)).max() < 1e-12


@pytest.mark.parametrize(
    "change, said",
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"a": 3}}, "rank_pattern"),
        ({"r": "2"}, "r='2'"),
        ({"lora_alpha": None}, "lora_alpha=None"),
    ],
)
def test_what_llmlab_does_not_compute_is_refused(folder, tmp_path, change, said):
    found = read_folder(folder)
    adapter = {"type": "lora", "rank": 2, "alpha": 3.0, "on": ["out"]}
    written(tmp_path / "adapter", found, adapter)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=said) as caught:
        read_adapter(tmp_path / "adapter", found.model, 11, columns(network(found)[0]))
    assert "\n" not in str(caught.value)


def test_the_adapter_of_another_network_is_refused(tmp_path):
    for name, (config, tensors) in FAMILIES.items():
        path = write(tmp_path / name, config, tensors())
        (path / "tokenizer.json").write_text(json.dumps(char_tokenizer()))
        (path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    one, other = read_folder(tmp_path / "gpt2"), read_folder(tmp_path / "llama")
    written(tmp_path / "adapter", one, {"type": "lora", "rank": 2, "on": ["out"]})
    with pytest.raises(CheckpointError, match="the network has no place for it"):
        read_adapter(tmp_path / "adapter", other.model, 11, columns(network(other)[0]))


@pytest.mark.slow
def test_from_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        capsys.readouterr()
        code = main([*argv, "threads=1"])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    assert run("phase=import", f"source={folder}", "target=base.npz")[0] == 0
    tune = ("phase=tune", "checkpoint=base.npz", "adapter=lora", "adapter.rank=2", "steps=2")
    assert run(*tune, "template=user_assistant")[0] == 0
    code, out, _ = run("phase=summary", "checkpoint=latest")
    assert code == 0 and "parameters trained" in out
    assert run("phase=export", "target=merged")[0] == 0
    assert run("phase=export", "target=adapter", "export.only_adapter=true")[0] == 0
    code, _, err = run("phase=import", "source=adapter")
    assert code == 2 and "checkpoint=FILE" in err
    back = ("phase=import", "source=adapter", "checkpoint=base.npz", "target=back.npz")
    assert run(*back)[0] == 0
    assert run("phase=export", "checkpoint=back.npz", "target=again")[0] == 0
    one, two = read_folder(tmp_path / "merged"), read_folder(tmp_path / "again")
    assert all(np.abs(one.arrays[n] - two.arrays[n]).max() < 1e-6 for n in one.arrays)
    alone = ("checkpoint=base.npz", "target=x", "export.only_adapter=true")
    code, _, err = run("phase=export", *alone)
    assert code == 2 and "has no adapter" in err


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks an old name of transformers
@pytest.mark.parametrize("on", [["q", "v"], ALL])
def test_peft_loads_what_is_written_here_and_the_other_way_round(folder, tmp_path, on):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    found = read_folder(folder)
    adapter = {"type": "lora", "rank": 2, "alpha": 3.0, "on": on}
    stack, params = written(tmp_path / "adapter", found, adapter)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").double().eval()
    ids = np.arange(10).reshape(2, 5)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids)).logits.numpy()
    ours = Network(stack, params, kernels="numpy").forward(ids).reshape(logits.shape)
    # transformers runs Llama's norms and softmax in float32.
    assert np.abs(ours - logits).max() < (1e-10 if found.network.family == "gpt2" else 1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    spec, arrays = read_adapter(tmp_path / "theirs", found.model, 11, columns(network(found)[0]))
    again, other = network(found, spec)
    assert arrays.keys() == other.layout.trained.shapes.keys()
    for name, array in arrays.items():
        other[name][...] = array
    forward = Network(again, other, kernels="numpy").forward(ids).reshape(logits.shape)
    assert np.abs(forward - ours).max() < 1e-6
