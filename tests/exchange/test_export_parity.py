"""Models of llmlab in transformers: nothing missing, the same tokens, logits and text."""

import json
from pathlib import Path

import numpy as np
import pytest

import llmlab
from llmlab.checkpoints import load
from llmlab.cli import main
from llmlab.exchange import Names, write_folder
from llmlab.exchange import names as naming
from llmlab.exchange.safetensors_files import INDEX
from llmlab.exchange.spec import model_spec
from llmlab.generate import Engine
from llmlab.layers import build_stack
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.runs import resolve_checkpoint
from llmlab.text import TEMPLATES, TOKENIZERS, Message, Tokenizer

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

DATA = Path(llmlab.__file__).parents[1] / "data"
SMALL = [
    "model.embedding_dim=32",
    "model.hidden_dim=48",
    "model.num_blocks=2",
    "model.num_heads=4",
    "model.max_seq_len=80",
]
PRESETS = {
    "gpt2": ["tokenizer=word"],
    "nano": ["tokenizer=char"],
    "llama": ["tokenizer=bpe", "++tokenizer.vocab_size=300"],
    "mistral": [
        "tokenizer=byte",
        "model.num_kv_heads=2",
        "model.stack.blocks.layers.attention.layer.window=9",
    ],
}
TRAINING = ["phase=pretrain", "epochs=4", "lr=3e-3", "threads=1", "template=user_assistant"]


@pytest.fixture(scope="module")
def hf():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import hf_models

    return hf_models


def sound(hf, folder):
    """Load a folder; nothing may be missing, unexpected or of another shape."""
    model, info = hf.transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not [kind for kind, names in info.items() if names], info
    return model.eval()


@pytest.fixture(scope="module", params=PRESETS)
def trained(hf, request, tmp_path_factory):
    """A preset after a few steps on real text, and its exported folder."""
    folder, preset = tmp_path_factory.mktemp(request.param), request.param
    keys = [*TRAINING, f"model={preset}", *SMALL, *PRESETS[preset]]
    assert main([*keys, f"hydra.run.dir={folder / 'run'}"]) == 0
    checkpoint = load(resolve_checkpoint(folder / "run"))
    target = folder / "out"
    assert main(["phase=export", f"checkpoint={checkpoint.path}", f"target={target}"]) == 0
    spec = checkpoint.meta["config"]["model"]
    tokenizer = Tokenizer.from_dict(checkpoint.meta["tokenizer"])
    sizes = {key: spec[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    stack = build_stack(spec["stack"], vocab_size=tokenizer.vocab_size, **sizes)
    params = Layout(stack).zeros(np.float32)
    for name, view in params.items():
        view[...] = checkpoint.arrays[f"params/{name}"]
    other = hf.transformers.AutoTokenizer.from_pretrained(target)
    return checkpoint, tokenizer, stack, params, sound(hf, target), other, target


def test_the_same_tokens(trained):
    _, tokenizer, *_, other, _ = trained
    texts = json.loads((DATA / "chats.json").read_text())
    texts += ["", " \t ", "naïve – “quotes” 😀 e\u0301", "line\r\nbreak \x1c \x85 \u3000 end"]
    for text in texts:
        text = text.replace("</s>", "")  # which transformers would take for the token
        ids = tokenizer.encode(text)
        assert other(text)["input_ids"] == ids
        assert other.decode(ids) == tokenizer.decode(ids)
    assert other.eos_token_id == tokenizer.end_id


def test_the_same_logits_and_text(hf, trained):
    _, tokenizer, stack, params, model, other, target = trained
    prompt = "What causes rain?"
    ids = tokenizer.encode(prompt)
    found = hf.our_logits(stack, params, np.array([ids]))
    wanted = hf.their_logits(model, np.array([ids]))
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    given = hf.torch.tensor([ids])
    options = {"max_new_tokens": 50, "attention_mask": hf.torch.ones_like(given)}
    theirs = model.generate(given, **options)[0, len(ids) :].tolist()
    engine = Engine(Network(stack, params, 80))
    (reply,) = engine.generate([ids], max_new_tokens=50, stop_ids=[tokenizer.end_id])
    assert (theirs[:-1] if reply.reason == "stop" else theirs) == reply.ids[: len(theirs)]
    text = other.decode(theirs, skip_special_tokens=True)
    assert text == tokenizer.decode(reply.ids)
    pipe = hf.transformers.pipeline("text-generation", model=str(target), tokenizer=str(target))
    said = pipe(prompt, max_new_tokens=50, do_sample=False, return_full_text=False)
    assert said[0]["generated_text"].strip() == text.strip()


def test_back_again_every_parameter_is_the_same(trained, tmp_path):
    checkpoint, *_, target = trained
    again = tmp_path / "again.npz"
    keys = [f"source={target}", f"target={again}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["phase=import", *keys]) == 0
    found = load(again).arrays
    kept = {n: a for n, a in checkpoint.arrays.items() if n.startswith("params/")}
    assert all(found[name].tobytes() == array.tobytes() for name, array in kept.items())
    # A preset without biases has them there, as zeros.
    assert not any(found[name].any() for name in found.keys() - kept.keys())
    assert all(name.endswith(".bias") for name in found.keys() - kept.keys())


def test_templates_render_alike(hf, trained):
    _, tokenizer, *_, other, _ = trained
    chat = [("system", "Be good."), ("user", " Hi"), ("assistant", "Yes? "), ("user", "Why?")]
    template = TEMPLATES.build("user_assistant", "template")
    for count, reply in ((4, True), (3, False), (2, True)):
        messages = [{"role": role, "content": text} for role, text in chat[:count]]
        options = {"add_generation_prompt": reply, "return_dict": False}
        theirs = other.apply_chat_template(messages, **options)
        ours = template.encode_messages(tokenizer, [Message(*m) for m in chat[:count]], reply)[0]
        assert theirs == ours


@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_templates_with_special_tokens(hf, tmp_path, name):
    template = TEMPLATES.build(name, "template")
    spec = {"type": "bpe", "vocab_size": 300, "specials": list(template.specials)}
    tokenizer = TOKENIZERS.build(spec, "tokenizer").train(["user assistant system Hi. Why?"])
    network, params = random_llama(tokenizer.vocab_size)
    write_folder(
        tmp_path / "out",
        model=model_spec(network),
        arrays=dict(params.items()),
        tokenizer=tokenizer,
        template=name,
        stop_ids=template.stop_ids(tokenizer),
    )
    other = hf.transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    chat = [("system", "Hi."), ("user", "Why?"), ("assistant", "Hi. "), ("user", "Why?")]
    messages = [{"role": role, "content": text} for role, text in chat]
    theirs = other.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ours, _ = template.encode_messages(tokenizer, [Message(*m) for m in chat], reply=True)
    assert theirs == ours
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == {tokenizer.end_id, *template.stop_ids(tokenizer)}


def random_llama(vocab_size):
    from llmlab.exchange.config_json import read_config

    network = read_config(
        {
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
        }
    )
    spec = model_spec(network)
    stack = build_stack(spec["stack"], vocab_size=vocab_size, embedding_dim=16, max_seq_len=32)
    return network, Layout(stack).init(0)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-untied", "llama-tied", "llama-biases", "mistral"])
@pytest.mark.parametrize("shard_bytes", [10**9, 10_000])
def test_there_and_back_the_state_is_byte_identical(hf, tmp_path, name, shard_bytes):
    model = hf.make(name)
    folder = hf.save(model, tmp_path / "in")
    network, _, params = hf.read(folder, np.float32)
    tokenizer = TOKENIZERS.build("char", "tokenizer").train(["".join(map(chr, range(65, 100)))])
    assert tokenizer.vocab_size == network.vocab_size
    write_folder(
        tmp_path / "out",
        model=model_spec(network),
        arrays=dict(params.items()),
        tokenizer=tokenizer,
        template="none",
        stop_ids=[1],
        shard_bytes=shard_bytes,
    )
    assert (tmp_path / "out" / INDEX).exists() == (shard_bytes < 10**9)
    back = sound(hf, tmp_path / "out")
    assert type(back) is type(model)
    theirs, ours = model.state_dict(), back.state_dict()
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert tensor.numpy().tobytes() == ours[key].numpy().tobytes(), key
    ids = hf.some_ids((2, 40))
    np.testing.assert_array_equal(hf.their_logits(back, ids), hf.their_logits(model, ids))
    slices = naming.tensor_slices(network, Names.usual(network.num_blocks))
    assert {each.theirs for each in slices} == {name for name, _ in model.named_parameters()}


def test_the_page_does_what_it_says(hf, tmp_path, monkeypatch, capsys):
    """Run the commands of docs/hugging-face.md, on a small GPT-2 and for two steps."""
    from pages import FENCE, ROOT, commands

    config = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 128, "vocab_size": 300}
    model = hf.transformers.GPT2LMHeadModel(hf.transformers.GPT2Config(**config))
    model.save_pretrained(tmp_path / "gpt2")
    spec = {"type": "bpe", "vocab_size": 300}
    texts = [(DATA / "statements.json").read_text()]
    tokenizer = TOKENIZERS.build(spec, "tokenizer").train(texts)
    (tmp_path / "gpt2" / "tokenizer.json").write_text(json.dumps(tokenizer.arguments()["json"]))
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "hugging-face.md"
    found = commands(page)
    assert [argv[0] for argv in found] == [
        "phase=import",
        "phase=generate",
        "phase=tune",
        "phase=export",
        "phase=pretrain",
        "phase=tune",
        "phase=summary",
        "phase=export",
        "phase=pretrain",
        "phase=export",
        "phase=import",
        "phase=tune",
    ]
    for argv in found:
        short = [word for word in argv if not word.startswith("epochs=")]
        short += ["steps=2"] if argv[0] in ("phase=pretrain", "phase=tune") else []
        assert main([*short, "threads=1"]) == 0
    (code,) = [text for kind, text in FENCE.findall(page.read_text("utf-8")) if kind == "python"]
    capsys.readouterr()
    exec(compile(code, str(page), "exec"), {})
    assert capsys.readouterr().out
