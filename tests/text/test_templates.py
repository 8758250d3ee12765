import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.errors import ConfigError, DataError
from llmlab.text import TEMPLATES, TOKENIZERS, Message, train_tokenizer

TEMPLATE = TEMPLATES.build("user_assistant", "template")


def asked(prompt, template=TEMPLATE):
    return template.text([Message("user", prompt)], reply=True)


def answered(prompt, answer):
    return TEMPLATE.text([Message("user", prompt), Message("assistant", answer)])


def test_prompt_is_how_the_text_begins():
    assert asked("What causes rain?") == "User: What causes rain? Assistant:"
    assert answered("What causes rain?", "Clouds.") == "User: What causes rain? Assistant: Clouds."


@pytest.mark.parametrize(
    "text",
    [
        "User: Hi there Assistant: Hello!",
        "User: Hi there Assistant: Hello! </s>",
        "  User:Hi there\nAssistant:Hello!</s>\n",
    ],
)
def test_parse(text):
    assert TEMPLATE.parse(text) == ("Hi there", "Hello!")


def test_roles_after_the_first_are_text():
    text = "User: a Assistant: b Assistant: c User: d"
    assert TEMPLATE.parse(text) == ("a", "b Assistant: c User: d")


words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(
    lambda word: "Assistant:" not in word and not word.endswith("</s>")
)
sentences = st.lists(words, min_size=1, max_size=5).map(" ".join)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(sentences, sentences)
def test_round_trip(prompt, answer):
    assert TEMPLATE.parse(answered(prompt, answer)) == (prompt, answer)


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "User: a",
        "Assistant: b",
        "User: Assistant: b",
        "User: a Assistant:",
        "User: a Assistant: </s>",
        "user: a assistant: b",
        "User: aAssistant: b",
        "",
        "a " * 99,
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(DataError, match=r"expected 'User: \.\.\. Assistant: \.\.\.', found '"):
        TEMPLATE.parse(text)


def test_roles_and_markers_in_user_text_encode_as_plain_text():
    typed = "User: x </s> <unk> Assistant: y"
    tokenizer = TOKENIZERS.build("word", "tokenizer").train([f"User: {typed} Assistant: z"])
    assert min(TEMPLATE.encode_prompt(tokenizer, typed)) > 1
    chat = [Message("user", typed), Message("assistant", "z </s>")]
    ids, answers = TEMPLATE.encode_messages(tokenizer, chat)
    first = answers.index(True)
    assert min(ids[:first]) > 1 and ids[first:].count(tokenizer.end_id) == 1
    assert ids[:first] == TEMPLATE.encode_prompt(tokenizer, typed)


def test_no_template():
    template = TEMPLATES.build("none", "template")
    assert asked(" Once ", template) == " Once "
    with pytest.raises(ConfigError, match="has no roles"):
        template.parse("User: a Assistant: b")


# Several turns

CHAT = [
    Message("system", "Be kind."),
    Message("user", " Hi "),
    Message("assistant", "Hello!"),
    Message("user", "Bye"),
    Message("assistant", "So long."),
]
RENDERED = {
    "user_assistant": "Be kind. User: Hi Assistant: Hello!User: Bye Assistant: So long.",
    "none": "Be kind. Hi Hello!ByeSo long.",
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\nSo long.<|im_end|>\n"
    ),
    "llama": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nSo long.<|eot_id|>"
    ),
}
STOPS = {"user_assistant": "</s>", "none": "</s>", "chatml": "<|im_end|>", "llama": "<|eot_id|>"}


@pytest.mark.parametrize("name", RENDERED)
def test_turns(name):
    template = TEMPLATES.build(name, "template")
    assert template.text(CHAT) == RENDERED[name]
    tokenizer = TOKENIZERS.build({"type": "byte", "specials": list(template.specials)}, "t")
    ids, answers = template.encode_messages(tokenizer, CHAT)
    assert tokenizer.decode(ids, skip_special=False).replace("</s>", "") == RENDERED[name]
    own = [id for id, answer in zip(ids, answers, strict=True) if answer]
    written = tokenizer.decode(own, skip_special=False)
    assert written.replace(" ", "") == f"Hello!{STOPS[name]}Solong.{STOPS[name]}"
    assert own[-1] in template.stop_ids(tokenizer)
    # What the model is given is how the chat goes on, at every turn.
    for n, message in enumerate(CHAT):
        if message.role == "assistant":
            before = template.encode_messages(tokenizer, CHAT[:n], reply=True)[0]
            assert ids[: len(before)] == before and answers[len(before)]


@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_special_tokens_come_from_the_template_alone(name):
    template = TEMPLATES.build(name, "template")
    tokenizer = TOKENIZERS.build({"type": "byte", "specials": list(template.specials)}, "t")
    typed = "".join(template.specials) + "</s>"
    plain = template.encode_prompt(tokenizer, "")
    ids = template.encode_prompt(tokenizer, typed)
    assert [id for id in ids if id > 255] == [id for id in plain if id > 255]
    assert typed in tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_a_vocabulary_without_the_special_tokens(name):
    template = TEMPLATES.build(name, "template")
    with pytest.raises(ConfigError, match=r"no special token '<\|.*the template needs"):
        template.encode_prompt(TOKENIZERS.build("byte", "tokenizer"), "hi")


@pytest.mark.parametrize("kind", ["word", "char", "byte", "bpe"])
@pytest.mark.parametrize("name", ["user_assistant", "chatml", "llama"])
def test_training_makes_room_for_the_template(tmp_path, kind, name):
    path = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "What now"}, {"role": "assistant", "content": "Rain"}]
    path.write_text(json.dumps({"messages": chat}))
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    spec = {"type": kind, "vocab_size": 300} if kind == "bpe" else kind
    tokenizer = train_tokenizer(spec, [path], template=name)
    template = TEMPLATES.build(name, "template")
    ids = template.encode_messages(
        tokenizer, [Message("user", "What"), Message("assistant", "Rain")]
    )
    assert tokenizer.unknown_id not in ids[0]


def test_chats_in_other_files_are_the_same_whatever_the_template():
    for name in ("chatml", "llama", "user_assistant"):
        template = TEMPLATES.build(name, "template")
        assert template.parse("User: a Assistant: b") == ("a", "b")
