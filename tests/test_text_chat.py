import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.errors import ConfigError, DataError
from llmlab.text import TEMPLATES, TOKENIZERS

TEMPLATE = TEMPLATES.build("user_assistant", "template")


def test_prompt_is_how_the_text_begins():
    before, answer = TEMPLATE.render("What causes rain?", "Clouds.")
    assert before == TEMPLATE.prompt("What causes rain?") == "User: What causes rain? Assistant:"
    assert before + answer == "User: What causes rain? Assistant: Clouds."


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
    assert TEMPLATE.parse("".join(TEMPLATE.render(prompt, answer))) == (prompt, answer)


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
    before, after = TEMPLATE.encode(tokenizer, typed, "z </s>")
    assert min(before) > 1 and after.count(tokenizer.end_id) == 1
    assert before == TEMPLATE.encode_prompt(tokenizer, typed)


def test_no_template():
    template = TEMPLATES.build("none", "template")
    assert template.prompt(" Once ") == " Once "
    with pytest.raises(ConfigError, match="has no roles"):
        template.parse("User: a Assistant: b")
