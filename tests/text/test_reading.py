import json
import os
import re
import sys

import pytest

from llmlab.errors import ConfigError, DataError
from llmlab.text import DATASETS, TOKENIZERS, read_texts


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def refused(path, **options):
    """Return the one-line message of reading `path`, without the path itself."""
    with pytest.raises(DataError) as caught:
        list(read_texts(path, **options))
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 3
    assert message.startswith(os.path.abspath(path))
    return message.removeprefix(os.path.abspath(path))


READABLE = {
    "plain": ("a.txt", "one\n\n  \ntwo, $x\n", [("one", 1), ("two, $x", 4)]),
    "plain without end": ("a.md", "one\ntwo", [("one", 1), ("two", 2)]),
    "no suffix": ("a", '["x"]', [('["x"]', 1)]),
    "array": ("a.json", '["one",\n\n "t\\"wo", ""]', [("one", 1), ('t"wo', 3)]),
    "array, upper case": ("A.JSON", ' [ "é" ] \n', [("é", 1)]),
    "lines": (
        "a.jsonl",
        '"one"\n\n{"text": "two", "n": [1]}\n',
        [("one", 1), ("two", 3)],
    ),
    "csv with header": ("a.csv", 'id,Text\n1,"a, b"\n\n2,c\n', [("a, b", 2), ("c", 4)]),
    "csv without": ("a.csv", "a\nb\n", [("a", 1), ("b", 2)]),
    "csv over lines": ("a.csv", 'text\n"a\nb"\nc\n', [("a\nb", 2), ("c", 4)]),
    "csv whose text is elsewhere": ("a.csv", "say,x\ntext,y\n", [("say", 1), ("text", 2)]),
    "csv named only after the first row": ("a.csv", "text\ntext\n", [("text", 2)]),
}


@pytest.mark.parametrize("name, content, expected", READABLE.values(), ids=READABLE)
def test_formats(write, name, content, expected):
    assert list(read_texts(write(name, content))) == expected


def test_data_is_never_interpolated(write):
    text = "it's ${oc.env:HOME} $HOME {x} %s </s>"
    assert next(read_texts(write("a.json", json.dumps([text]))))[0] == text


# Bad input 12


def test_missing_file_names_the_nearest(write, tmp_path):
    write("statements.json", "[]")
    message = refused(tmp_path / "statement.json")
    assert message == ": no such file (did you mean 'statements.json'?)"


def test_missing_folder(tmp_path):
    assert "no such file; nor is there a folder" in refused(tmp_path / "nowhere" / "a.txt")


def test_relative_paths_are_named_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("a.txt") == ": no such file"


def test_folder(tmp_path):
    assert "is a folder" in refused(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_unreadable(write):
    path = write("a.txt", "x")
    path.chmod(0)
    assert "cannot be read: Permission denied" in refused(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")


def test_nul_in_the_name():
    with pytest.raises(DataError, match="not a possible file name"):
        list(read_texts("a\0b"))


@pytest.mark.parametrize("path", [None, 5, ["a"]])
def test_not_a_name(path):
    with pytest.raises(ConfigError, match="expected the name of a file"):
        list(read_texts(path))


# Bad input 13


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", ""),
        ("a.txt", " \n\t\n"),
        ("a.txt", b"\xef\xbb\xbf"),
        ("a.txt", "\0\0\n"),
        ("a.json", ""),
        ("a.json", "[]"),
        ("a.json", '["", " "]'),
        ("a.jsonl", "\n"),
        ("a.csv", "text\n"),
    ],
)
def test_empty(write, name, content):
    path = write(name, content)
    assert f": no text in it ({path.stat().st_size} bytes, " in refused(path)


# Bad input 14


def test_invalid_utf8(write):
    message = refused(write("a.txt", b"good\nba\xffd\n"))
    assert (
        message.startswith(":2: byte 7 (0xff) is not UTF-8;") and "invalid_utf8=replace" in message
    )


def test_the_advice_on_utf8_names_the_key(write):
    path = write("a.txt", b"\xff")
    for stage in ("pretrain", "tune"):
        spec = {"type": "lines", "path": str(path), "max_seq_len": 8}
        with pytest.raises(DataError, match=rf"or set data\.{stage}\.invalid_utf8=replace$"):
            DATASETS.build(spec, f"data.{stage}", tokenizer=TOKENIZERS.build("byte", "tokenizer"))


def test_invalid_utf8_after_a_bom_and_lone_returns(write):
    message = refused(write("a.txt", b"\xef\xbb\xbfa\rb\r\n\xc3\x28"))
    assert message.startswith(":3: byte 8 (0xc3)")
    assert refused(write("b.txt", b"\xef\xbb\xbfa\rb\xff")).startswith(":2: byte 6 (0xff)")


def test_utf16_is_recognised(write):
    assert "looks like UTF-16" in refused(write("a.txt", "text".encode("utf-16")))


def test_invalid_utf8_replaced(write, caplog):
    path = write("a.txt", b"ba\xffd \xed\xa0\x80 \xef\xbf\xbd\n")
    text = next(read_texts(path, invalid_utf8="replace"))[0]
    assert text.startswith("ba\ufffdd ")
    list(read_texts(path, invalid_utf8="replace"))
    assert "invalid UTF-8 sequences replaced" in caplog.text
    assert f" {text.count(chr(0xFFFD)) - 1} invalid" in caplog.text


def test_unknown_policy(write):
    with pytest.raises(ConfigError, match="invalid_utf8='skip'"):
        list(read_texts(write("a.txt", "x"), invalid_utf8="skip"))


# Bad inputs 15 and 16


@pytest.mark.parametrize("name, content", [("a.txt", "one"), ("a.json", '["one"]')])
def test_bom(write, caplog, name, content):
    path = write(name, b"\xef\xbb\xbf" + content.encode())
    assert list(read_texts(path)) == [("one", 1)]
    assert "byte order mark dropped" in caplog.text


def test_carriage_returns(write, caplog):
    assert list(read_texts(write("a.txt", "one\r\ntwo\rthree\r\n"))) == [
        ("one", 1),
        ("two", 2),
        ("three", 3),
    ]
    assert "3 carriage returns" in caplog.text


def test_carriage_returns_in_json(write):
    content = '["a\\r\\nb\\rc",\r\n"d"]'
    assert list(read_texts(write("a.json", content))) == [("a\nb\nc", 1), ("d", 2)]


def test_control_characters(write, caplog):
    assert list(read_texts(write("a.txt", "a\0b\x1b[31m\tc\x85d\n"))) == [("a b [31m\tc d", 1)]
    assert "3 control characters" in caplog.text
    assert list(read_texts(write("a.json", '["a\\u0000b"]'))) == [("a b", 1)]


def test_notices_come_once_or_not_at_all(write, caplog):
    path = write("a.txt", b"\xef\xbb\xbfa\0\r\n")
    list(read_texts(path, notices=False))
    assert not caplog.records
    list(read_texts(path))
    assert len(caplog.records) == 3
    assert {record.name for record in caplog.records} == {"llmlab"}


def test_columns_that_are_not_read_are_noticed(write, caplog):
    list(read_texts(write("a.csv", "Rain, snow and ice\n")))
    assert "only the first column is read" in caplog.text


# Bad input 18

BROKEN = {
    "object for array": ("a.json", '\n{"a": 1}', ":2: expected an array of strings (one"),
    "number for array": ("a.json", "5", ":1: expected an array of strings, found a number"),
    "number inside": ("a.json", '["a",\n5]', ":2: expected a string, found a number"),
    "null inside": ("a.json", "[null]", ":1: expected a string, found null"),
    "NaN inside": ("a.json", '["a",\nNaN]', ":2: expected a string, found NaN"),
    "object inside": ("a.json", '[{"text": "a"}]', ":1: expected a string, found an object"),
    "deep array": ("a.json", "[" * 200_000, ":1: expected a string, found an array"),
    "unclosed array": ("a.json", '["a"\n', ":1: expected ',' or ']', found the end of the file"),
    "no comma": ("a.json", '["a"\n"b"]', ":2: expected ',' or ']', found a string"),
    "comma at the end": ("a.json", '["a",]', ":1: expected a string, found ']'"),
    "more after": ("a.json", '["a"]\n"b"', ":2: expected nothing after the array"),
    "unclosed string": ("a.json", '["a",\n"b]', ":2: not valid JSON: Unterminated string"),
    "line feed inside": ("a.json", '["a\nb"]', ":1: not valid JSON: Invalid control"),
    "bad escape": ("a.json", '["a",\n"\\x"]', ":2: not valid JSON: Invalid \\escape"),
    "surrogate": ("a.json", '["a",\n"b\\ud800"]', ":2: expected text, found a lone surrogate"),
    "broken line": ("a.jsonl", '"a"\n{"text": "b"\n', ":2: not valid JSON: Expecting ','"),
    "number on a line": ("a.jsonl", '"a"\n5\n', ":2: expected a string or an object with a string"),
    "array on a line": ("a.jsonl", "[1]", "found an array"),
    "true on a line": ("a.jsonl", "true", "found true"),
    "null text": ("a.jsonl", '{"text": null}', "found an object whose 'text' is null"),
    "object without text": ("a.jsonl", '{"a": 1, "b": 2}', "found an object with 'a', 'b'"),
    "NaN on a line": ("a.jsonl", '"a"\n{"text": "b", "n": NaN}', ":2: not valid JSON: NaN"),
    "huge integer": ("a.jsonl", "1" * 10_000, ":1: not valid JSON: "),
    "surrogate on a line": ("a.jsonl", '{"text": "\\udfff"}', "found a lone surrogate (U+DFFF)"),
    "csv quote": ("a.csv", 'text\n"a\nb', ":2: not valid CSV: unexpected end of data"),
    "csv after quote": ("a.csv", 'text\n"a"b\n', ":2: not valid CSV: "),
    "csv short row": ("a.csv", "id,text\n1\n", ":2: expected 2 or more columns"),
    "csv huge field": ("a.csv", "x" * 140_000, ":1: not valid CSV: field larger"),
}


@pytest.mark.parametrize("name, content, expected", BROKEN.values(), ids=BROKEN)
def test_broken(write, name, content, expected):
    assert expected in refused(write(name, content))


def test_deep_nesting_on_a_line(write):
    depth = max(200_000, 10 * sys.getrecursionlimit())
    message = refused(write("a.jsonl", '"a"\n' + "[" * depth + "]" * depth))
    assert re.match(r":2: (nested too deeply|expected a string)", message)


def test_texts_before_the_damage_still_come(write):
    texts = read_texts(write("a.json", '["a", 1]'))
    assert next(texts) == ("a", 1)
    with pytest.raises(DataError):
        next(texts)
