"""Chats of several turns from JSON lines in the form that the field uses."""

import gzip
import json

import pytest

from llmlab.errors import DataError
from llmlab.text import DATASETS, TOKENIZERS, Message, read_chats, read_texts

CHATS = [
    [("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "e")],
    [("system", "s"), ("user", "f"), ("assistant", "gh")],
]
FORMS = {
    name: TOKENIZERS.build({"type": "byte", "specials": specials}, "tokenizer")
    for name, specials in (
        ("user_assistant", []),
        ("chatml", ["<|im_start|>", "<|im_end|>"]),
    )
}


@pytest.fixture
def write(tmp_path):
    def make(chats=CHATS, name="chats.jsonl"):
        path = tmp_path / name
        entries = [
            chat
            if not isinstance(chat, list)
            else {"messages": [{"role": role, "content": text} for role, text in chat]}
            for chat in chats
        ]
        content = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return make


def build(path, form="chatml", **arguments):
    spec = {"type": "chats", "path": str(path), "max_seq_len": 99, "template": form, **arguments}
    return DATASETS.build({"shuffle": False, **spec}, "data", tokenizer=FORMS[form])


def turns(dataset):
    return [[(message.role, message.content) for message in chat] for chat in dataset.chats]


def test_messages(write):
    dataset = build(write())
    assert dataset.chats[1] == [
        Message("system", "s"),
        Message("user", "f"),
        Message("assistant", "gh"),
    ]
    assert turns(dataset) == CHATS and len(dataset) == 2
    ids, weights = dataset.samples()[1]
    assert all(weights) and FORMS["chatml"].decode(ids, skip_special=False) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nf<|im_end|>\n"
        "<|im_start|>assistant\ngh<|im_end|>\n"
    )


@pytest.mark.parametrize(
    "form, texts",
    [
        ("chatml", ["bc<|im_end|>e<|im_end|>", "gh<|im_end|>"]),
        ("user_assistant", [" bc</s> e</s>", " gh</s>"]),
    ],
)
def test_loss_on_answers_only(write, form, texts):
    dataset = build(write(), form, answer_only=True)
    batch = next(dataset.batches(2, 0, 0))
    learned = [batch.targets[row][batch.weights[row] > 0] for row in range(2)]
    assert [FORMS[form].decode(ids, skip_special=False) for ids in learned] == texts


def test_strings_and_messages_in_one_file(write):
    dataset = build(write([CHATS[0], "User: x Assistant: y", {"text": "User: u Assistant: v"}]))
    strings = [[("user", "x"), ("assistant", "y")], [("user", "u"), ("assistant", "v")]]
    assert turns(dataset) == [CHATS[0], *strings]


def test_a_folder_of_packed_files(write, tmp_path):
    write(name="one.jsonl.gz")
    write([CHATS[0]], name="two.jsonl")
    assert len(build(tmp_path / "*.jsonl*")) == 3


def test_chats_without_an_answer_are_dropped_when_only_answers_count(write, caplog):
    dataset = build(write([[("user", "a")], *CHATS]), answer_only=True)
    assert dataset.report["dropped"] == 1 and len(dataset) == 2
    assert "1 samples without a target, dropped" in caplog.text
    with pytest.raises(DataError, match=r"no target to learn from in 1 texts \(1 dropped\)"):
        build(write([[("user", "a")]]), answer_only=True)


@pytest.mark.parametrize(
    "messages, message",
    [
        ("hi", "'messages': expected a list of messages, found a string"),
        ([], "'messages': expected a list of messages, found an array"),
        (["hi"], r"messages\[0\]: expected an object with 'role'.*found a string"),
        ([{"role": "user"}], r"messages\[0\]: expected .*found an object with 'role'"),
        ([{"role": "user", "content": None}], r"found an object whose 'content' is null"),
        (
            [{"role": "dog", "content": "x"}],
            r"a role of system, user, assistant, tool, found 'dog'",
        ),
        ([{"content": "x"}], r"a role of system, user, assistant, tool, found none"),
        ([{"role": ["user"], "content": "x"}], r"found \['user'\]"),
    ],
)
def test_messages_of_another_shape(tmp_path, messages, message):
    path = tmp_path / "chats.jsonl"
    path.write_text('\n{"messages": [{"role": "user", "content": "ok"}]}\n')
    path.write_text(path.read_text() + json.dumps({"messages": messages}) + "\n")
    with pytest.raises(DataError, match=rf"chats\.jsonl:3: .*{message}") as caught:
        list(read_chats(path))
    assert "\n" not in str(caught.value)


def test_content_is_cleaned_like_any_text(tmp_path):
    path = tmp_path / "chats.jsonl"
    content = json.dumps({"messages": [{"role": "user", "content": "a\r\nb\0c"}]})
    path.write_text(content)
    assert next(read_chats(path))[0] == [Message("user", "a\nb c")]
    path.write_text(content.replace("b", "\\ud800"))
    with pytest.raises(DataError, match=r":1: expected text, found a lone surrogate"):
        next(read_chats(path))


def test_names_of_special_tokens_are_no_unknown_words(write, caplog):
    spec = {"type": "word", "specials": ["<|im_start|>", "<|im_end|>"]}
    words = TOKENIZERS.build(spec, "tokenizer").train(["user assistant system s a bc d e f"])
    chats = {"type": "chats", "path": str(write()), "max_seq_len": 99, "template": "chatml"}
    dataset = DATASETS.build(chats, "data", tokenizer=words)
    assert dataset.unknown_words == ["gh"]
    assert "read as unknown: gh" in caplog.text


def test_only_chats_have_messages(write):
    with pytest.raises(DataError, match=r"expected a string or an object with a string 'text'"):
        list(read_texts(write()))


def test_a_line_that_no_memory_should_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("llmlab.text.files.MAX_LINE", 2**20)
    path = tmp_path / "a.txt"
    path.write_bytes(b"short\n" + b"x" * (2**20 + 1))
    with pytest.raises(DataError, match=r"a\.txt:2: a line of more than 1 MiB; type=text reads"):
        list(read_texts(path))
