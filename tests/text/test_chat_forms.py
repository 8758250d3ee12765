"""Chats in the forms that people have them: ShareGPT, Alpaca, tools, parts, folders."""

import gzip
import json

import pytest

from llmlab.errors import DataError
from llmlab.exchange.chat_template import chat_template
from llmlab.text import DATASETS, TEMPLATES, TOKENIZERS, Message, train_tokenizer
from llmlab.text.reading import read_chats

TURNS = [Message("user", "What is rain?"), Message("assistant", "Water.")]
FORMS = {
    "messages": {"messages": [{"role": m.role, "content": m.content} for m in TURNS]},
    "sharegpt": {
        "id": "x_0",
        "conversations": [
            {"from": "human", "value": "What is rain?"},
            {"from": "gpt", "value": "Water."},
        ],
    },
    "sharegpt's names": {
        "conversations": [
            {"role": "user", "content": "What is rain?"},
            {"from": "chatgpt", "value": "Water."},
        ]
    },
    "alpaca": {"instruction": "What is rain?", "input": "", "output": "Water."},
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What "},
                    {"type": "text", "text": "is rain?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Water."}]},
        ]
    },
}


def read(path):
    return [entry for entry, _ in read_chats(path)]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_same_chat(tmp_path, form):
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(FORMS[form]) + "\n" for _ in range(2)))
    array = tmp_path / "a.json"
    array.write_text(json.dumps([FORMS[form], FORMS[form]], indent=2))
    assert read(lines) == read(array) == [TURNS, TURNS]


def test_what_else_the_forms_say(tmp_path):
    path = tmp_path / "a.jsonl"
    entries = [
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}]},
        {
            "instruction": "Add.",
            "input": "1 and 2",
            "output": "3",
            "system": "Count.",
            "history": [["a", "b"]],
        },
        {
            "messages": [
                {"role": "user", "content": "Time?"},
                {"role": "tool", "content": "10:30"},
                {"role": "assistant", "content": "Half past ten."},
            ]
        },
        {"conversations": [{"from": "observation", "value": "10:30"}]},
    ]
    path.write_text("\n".join(map(json.dumps, entries)))
    roles = [[(m.role, m.content) for m in chat] for chat in read(path)]
    assert roles == [
        [("system", "Be kind."), ("user", "Hi")],
        [
            ("system", "Count."),
            ("user", "a"),
            ("assistant", "b"),
            ("user", "Add.\n1 and 2"),
            ("assistant", "3"),
        ],
        [("user", "Time?"), ("tool", "10:30"), ("assistant", "Half past ten.")],
        [("tool", "10:30")],
    ]


@pytest.mark.parametrize(
    "entry, said",
    [
        ({"conversations": []}, "'conversations': expected a list of messages, found an array"),
        ({"conversations": [{"from": "dog", "value": "x"}]}, r"conversations\[0\]: .*found 'dog'"),
        ({"conversations": [{"from": "gpt"}]}, "'from' and 'value', found an object with 'from'"),
        ({"instruction": "", "input": "", "output": "x"}, "'instruction' .not empty"),
        ({"instruction": "a", "output": 3}, "strings 'instruction'"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "pairs of strings"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r"messages\[0\]: content\[0\]: expected text, found a part of type 'image_url'",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "a call of a tool without text",
        ),
        ({"question": "a"}, "expected a string or an object with 'messages', 'conversations'"),
        (3, "found a number"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_what_is_wrong_is_one_line(tmp_path, entry, said, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text(json.dumps([entry] if suffix == "json" else entry))
    with pytest.raises(DataError, match=said) as caught:
        read(path)
    assert f"a.{suffix}:1: " in str(caught.value) and "\n" not in str(caught.value)


def test_deep_nesting_in_an_array(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"messages": ' + "[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read(path)


def test_several_files_and_folders_of_them(tmp_path):
    tokenizer = TOKENIZERS.build("byte", "tokenizer")
    folder = tmp_path / "chats"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.json").write_text(json.dumps([FORMS["alpaca"]]))
    (folder / "deep" / "c.jsonl.gz").write_bytes(
        gzip.compress(json.dumps(FORMS["sharegpt"]).encode())
    )
    (folder / "notes.md").write_text("nothing of this kind")
    alone = tmp_path / "a.jsonl"
    alone.write_text(json.dumps(FORMS["messages"]))

    def count(path):
        spec = {"type": "chats", "path": path}
        return len(DATASETS.build(spec, "data", tokenizer=tokenizer, max_seq_len=64).chats)

    assert count(str(folder)) == 2
    assert count([str(alone), str(folder), str(alone)]) == 3
    assert count(str(folder / "*.json")) == 1
    words = train_tokenizer("word", [str(folder)])  # the corpus is the same folder
    assert words.unknown_words("What is rain? Water.") == []
    (folder / "d.txt").write_text("User: a Assistant: b\n")
    assert count(str(folder)) == 1  # text before lists


@pytest.mark.parametrize("name", ["chatml", "llama", "user_assistant"])
def test_a_tool_speaks_in_each_template(name):
    template = TEMPLATES.build(name, "template")
    chat = [Message("user", "Time?"), Message("tool", "10:30"), Message("assistant", "Ten.")]
    expected = {
        "chatml": "<|im_start|>tool\n10:30<|im_end|>",
        "llama": "<|start_header_id|>ipython<|end_header_id|>\n\n10:30<|eot_id|>",
        "user_assistant": "User: Time? 10:30 Assistant: Ten.",
    }
    assert expected[name] in template.text(chat)
    jinja = pytest.importorskip("jinja2").Template(chat_template(name))
    messages = [{"role": m.role, "content": m.content} for m in chat]
    assert expected[name] in jinja.render(messages=messages, eos_token="")
