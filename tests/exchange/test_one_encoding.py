"""One text has one encoding, the one that transformers gives it, whatever the tokenizer."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from hf_tokenizers import KINDS, MARKS, TEXTS, tokenizer_json

from llmlab.exchange.chat_template import read_template
from llmlab.exchange.tokenizer_import import read_settings, read_tokenizer
from llmlab.text import TEMPLATES, Message

pytestmark = pytest.mark.slow

pytest.importorskip("tokenizers")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "[INST] {% if loop.last and system %}{{ system + '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}### {{ m.role | title }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
LOOKS = (  # into the contents, as the templates of models that think do
    "{% for m in messages %}{% if m.role == 'assistant' and '</think>' in m.content %}"
    "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}{% else %}"
    "{% set said = m.content %}{% endif %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' }}{% if loop.last and m.role == 'assistant' %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ said ~ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SOURCES = {"chatml": CHATML, "llama-3": LLAMA_3, "mistral": MISTRAL, "plain": PLAIN, "looks": LOOKS}
CHATS = [
    [("user", "What's up?")],
    [("user", "Hello!"), ("assistant", "Hi there.")],
    [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", " And 2+2? ")],
    [("user", "a\n\nb é 漢"), ("assistant", "line\nline"), ("user", "x"), ("assistant", "y\n")],
    [("user", "the rain\n\n"), ("assistant", " \n falls"), ("user", ""), ("assistant", "so")],
    [
        ("user", "why"),
        ("assistant", "<think>\nhm\n</think>\n\nsince"),
        ("user", "ah"),
        ("assistant", "ok"),
    ],
    [("user", "assistant"), ("assistant", "user"), ("user", "a"), ("assistant", "a")],
]


def folder(path, kind, source=CHATML, **settings):
    """Write a folder with a tokenizer of one kind and a chat template."""
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer_json(kind)))
    named: dict = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind.endswith("spaced"):
        named["add_prefix_space"] = True  # without it, 4.57 takes the space away and 5 doesn't
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named, **settings}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": source}))
    return path


def read(path):
    """Return the tokenizer and the template that llmlab reads."""
    vocabulary = json.loads((path / "tokenizer.json").read_text())["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    tokenizer = read_tokenizer(path, 1 + max(ids), [])
    return tokenizer, TEMPLATES.build(read_template(path, read_settings(path)), "template")


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """A folder, its tokenizer by llmlab, and by transformers."""
    transformers = pytest.importorskip("transformers")
    path = folder(tmp_path_factory.mktemp("kinds") / request.param, request.param)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    return path, read_tokenizer(path, 1 + max(theirs.get_vocab().values()), []), theirs


def messages(chat):
    return [Message(*turn) for turn in chat]


def dicts(chat):
    return [{"role": role, "content": content} for role, content in chat]


@pytest.mark.parity
@pytest.mark.parametrize("name", SOURCES)
def test_chats_have_the_ids_of_transformers(pair, name):
    _, ours, theirs = pair
    theirs.chat_template = SOURCES[name]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    spec = {"type": "jinja", "source": SOURCES[name], "tokens": tokens}
    template = TEMPLATES.build(spec, "template")
    for chat in CHATS:
        for reply in (False, True):
            options = {"add_generation_prompt": reply}
            text = theirs.apply_chat_template(dicts(chat), tokenize=False, **options)
            assert template.text(messages(chat), reply) == text
            ids = theirs.apply_chat_template(dicts(chat), return_dict=False, **options)
            assert template.encode_messages(ours, messages(chat), reply)[0] == list(ids)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_llmlabs_own_templates_have_these_ids_too(pair, name):
    _, ours, theirs = pair
    template = TEMPLATES.build(name, "template")
    for chat in CHATS:
        if name == "llama":
            chat = [(role, content.strip()) for role, content in chat]
        theirs.chat_template = {"chatml": CHATML, "llama": LLAMA_3}[name].replace(
            "{{ bos_token }}", "<|begin_of_text|>"
        )
        for reply in (False, True):
            options = {"add_generation_prompt": reply, "return_dict": False}
            ids = theirs.apply_chat_template(dicts(chat), **options)
            assert template.encode_messages(ours, messages(chat), reply)[0] == list(ids)


@pytest.mark.parity
def test_texts_have_the_ids_of_transformers(pair):
    _, ours, theirs = pair
    for text in (*TEXTS[:2], TEXTS[3], " two  spaces ", "\n", ""):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parity
def test_a_continuation_is_what_it_adds(pair):
    _, ours, theirs = pair
    ids = ours.encode("The rain falls from the clouds, when the air is cold.")
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    whole = theirs.decode(ids, **plain)
    assert ours.decode(ids) == whole
    for cut in range(1, len(ids)):
        before = theirs.decode(ids[:cut], **plain)
        if ours.lossless and whole.startswith(before) and before.strip():
            assert ours.continuation(ids[cut:]) == whole[len(before) :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_may_come_in_any_blocks(kind, tmp_path):
    tokenizer, _ = read(folder(tmp_path / "f", kind))
    rng = random.Random(0)
    parts = [rng.choice(TEXTS) + rng.choice([" ", "\n", "  "]) for _ in range(300)]
    text = "".join(parts) + "x" * 12_000 + "1234567" * 2_000 + " " * 9_000 + "é" * 5_000
    whole = tokenizer.encode(text)
    for count in (1, 3, 12):
        cuts = [0, *sorted(rng.sample(range(len(text)), count)), len(text)]
        blocks = [text[a:b] for a, b in pairwise(cuts)]
        assert np.concatenate(list(tokenizer.encode_blocks(blocks))).tolist() == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_typed_is_never_a_special_token(kind, tmp_path):
    typed = f"{''.join(MARKS)}</s> <s> <unk><|im_en"
    for name, source in SOURCES.items():
        tokenizer, template = read(folder(tmp_path / name, kind, source))
        special = set(tokenizer.special_ids.values()) - {tokenizer.unknown_id}

        def held(chat, tokenizer=tokenizer, template=template, special=special):
            return [
                id for id in template.encode_messages(tokenizer, messages(chat))[0] if id in special
            ]

        assert special.isdisjoint(tokenizer.encode(typed))
        for role in range(2):
            plain = [("user", "hi"), ("assistant", "ho")]
            own = [(r, typed if n == role else c) for n, (r, c) in enumerate(plain)]
            assert held(own) == held(plain)


@pytest.mark.parametrize("name", SOURCES)
def test_answers_are_what_the_model_writes(name, tmp_path):
    tokenizer, template = read(folder(tmp_path / "f", "byte-level", SOURCES[name]))
    chat = messages([("user", "Hi you"), ("assistant", "Well."), ("user", "a"), ("assistant", "a")])
    ids, answers = template.encode_messages(tokenizer, chat)
    own = [id for id, answer in zip(ids, answers, strict=True) if answer]
    end = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "mistral": "</s>", "plain": ""}
    end["looks"] = "<|im_end|>"
    text = tokenizer.decode(own, skip_special=False).replace(" ", "")
    assert text == f"Well.{end[name]}a{end[name]}"
    ends = {tokenizer.token(id) for id in template.stop_ids(tokenizer)}
    assert ends == {"</s>", end[name]} - {""}


@pytest.mark.parity
@pytest.mark.parametrize("spaced", [None, False, True])
@pytest.mark.parametrize("kind", ["byte-level", "byte-level-spaced"])
def test_the_class_gpt2_has_the_last_word_on_a_space_before(tmp_path, kind, spaced):
    transformers = pytest.importorskip("transformers")
    settings = {"tokenizer_class": "GPT2Tokenizer"}
    settings |= {} if spaced is None else {"add_prefix_space": spaced}
    path = folder(tmp_path / "f", kind)
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", **settings}))
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    ours = read_tokenizer(path, len(theirs), [])
    for text in TEXTS:
        text = text.replace("[", "(")
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["byte-level", "mistral", "unigram"])
def test_tokens_of_added_tokens_decoder(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    path = folder(tmp_path / "f", kind)
    size = len(transformers.PreTrainedTokenizerFast.from_pretrained(path))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    more = {
        str(size): {"content": "<think>", "special": False, **flags},
        str(size + 1): {"content": "<|more|>", "special": True, **flags},
    }
    folder(path, kind, added_tokens_decoder=more)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    ours = read_tokenizer(path, size + 2, [])
    assert ours.special_ids["<|more|>"] == theirs.convert_tokens_to_ids("<|more|>") == size + 1
    text = "the rain <think> falls"
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
