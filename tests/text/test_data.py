"""The shipped texts: their shape, their size, and that they survive the word tokenizer."""

import json
from pathlib import Path

import pytest

from llmlab.text import DATASETS, Message, train_tokenizer
from llmlab.text.templates.user_assistant import UserAssistant

DATA = Path(__file__).parents[2] / "data"
FILES = {name: DATA / f"{name}.json" for name in ("statements", "chats")}
TEXTS = {name: json.loads(path.read_text("utf-8")) for name, path in FILES.items()}
TOKENIZER = train_tokenizer("word", FILES.values())


def count(name):
    return [len(TOKENIZER.encode(text)) for text in TEXTS[name]]


def test_sizes():
    assert len(TEXTS["statements"]) == 25 and len(TEXTS["chats"]) == 53
    assert 195 <= sum(count("statements")) <= 230
    assert 1230 <= sum(count("chats")) <= 1330
    assert max(count("statements") + count("chats")) < 80
    assert 480 <= TOKENIZER.vocab_size <= 600


@pytest.mark.parametrize("name", FILES)
def test_strings_are_clean_and_unique(name):
    assert all(type(text) is str and "</s>" not in text for text in TEXTS[name])
    assert all(text == " ".join(text.split()) for text in TEXTS[name])
    assert len(set(TEXTS[name])) == len(TEXTS[name])


@pytest.mark.parametrize("text", TEXTS["statements"] + TEXTS["chats"])
def test_round_trip(text):
    assert TOKENIZER.decode([*TOKENIZER.encode(text), TOKENIZER.end_id]) == text


def test_the_spacing_needs_no_exceptions():
    assert TOKENIZER.to_dict()["spacing"] == []


def messages(prompt, answer):
    return [Message("user", prompt), Message("assistant", answer)]


def test_prompts():
    pairs = [UserAssistant().parse(text) for text in TEXTS["chats"]]
    prompts = [prompt for prompt, _ in pairs]
    assert len({prompt.casefold() for prompt in prompts}) == 53
    asked = {"How do mountains form?", "What causes rain?", "What is photosynthesis?", "Hello!"}
    assert asked <= set(prompts)
    for text, pair in zip(TEXTS["chats"], pairs, strict=True):
        assert UserAssistant().text(messages(*pair)) == text
        assert all(part == part.strip() and part for part in pair)


def test_prompts_decide_their_answers():
    dataset = DATASETS.build(
        {"type": "chats", "path": FILES["chats"]}, "data", tokenizer=TOKENIZER, max_seq_len=80
    )
    prompts = [chat[0].content for chat in dataset.chats]
    prefixes = {tuple(UserAssistant().encode_prompt(TOKENIZER, prompt)) for prompt in prompts}
    assert len(prefixes) == 53


def test_statements_begin_with_different_words():
    assert len({text.split()[0] for text in TEXTS["statements"]}) == 25
