"""tokenizer.json of each tokenizer gives the same ids; foreign ones are read."""

import json
import sys

import pytest
from hf_folders import char_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmlab.errors import CheckpointError, ResourceError
from llmlab.exchange.tokenizer_import import read_tokenizer
from llmlab.exchange.tokenizer_json import byte_characters, tokenizer_json
from llmlab.text import TOKENIZERS

TEXTS = [
    "Mountains form when plates collide, slowly; don't they? It's 10:30, 1,234.5 metres (or so).",
    "She said \"yes\" - and 'no' - to a/b_c^d, [x] {y} #1 @home $5 50% e.g. the rivers' banks.",
    "naïve – “quotes” 😀 e\u0301 \x1c\x85\u2028\u3000\ufeff\u200b tab\there  two spaces",
]
ODD = "\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u200b\u2028\u2029\u202f\u3000\ufeff\x00\r\n<s/> ' \"é😀"
texts = st.text(st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"])))


def trained(kind, **options):
    return TOKENIZERS.build({"type": kind, **options}, "tokenizer").train(TEXTS)


def saved(folder, content, settings=None):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module", params=["word", "char", "byte", "bpe"])
def pair(request):
    """A tokenizer of llmlab's, and the library's, made of its tokenizer.json."""
    library = pytest.importorskip("tokenizers")
    options = {"vocab_size": 300} if request.param == "bpe" else {}
    own = trained(request.param, specials=["<|im_start|>", "<|im_end|>"], **options)
    other = library.Tokenizer.from_str(json.dumps(tokenizer_json(own)))
    assert other.get_vocab_size() == own.vocab_size
    other.encode_special_tokens = True  # llmlab's rule: what users type is never special
    return own, other


@pytest.mark.every_day(1)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=texts)
@example(text="</s> <unk> <|im_start|>")
@example(text=TEXTS[2])
def test_the_same_ids(pair, text):
    own, other = pair
    assert other.encode(text).ids == own.encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_text(pair, text):
    own, other = pair
    ids = own.encode(text)
    assert other.decode(ids) == own.decode(ids)


def test_special_tokens_have_their_ids(pair):
    own, other = pair
    other.encode_special_tokens = False
    ids = other.encode("<|im_end|>").ids
    other.encode_special_tokens = True
    assert ids == [own.special_ids["<|im_end|>"]]
    assert other.token_to_id(own.token(own.end_id)) == own.end_id
    assert other.decode([own.end_id]) == ""


def test_an_unknown_character_is_shown_alike():
    library = pytest.importorskip("tokenizers")
    own = trained("char")
    other = library.Tokenizer.from_str(json.dumps(tokenizer_json(own)))
    ids = own.encode("form \u0416 here")
    assert other.decode(ids) == own.decode(ids) == "form \ufffd here"


def test_word_keeps_the_spacing_it_learned():
    library = pytest.importorskip("tokenizers")
    own = TOKENIZERS.build("word", "tokenizer").train(["vitamin - C costs 5 % more : yes", "x - y"])
    assert own.arguments()["spacing"]
    other = library.Tokenizer.from_str(json.dumps(tokenizer_json(own)))
    ids = own.encode("vitamin - C costs 5 % more : yes")
    assert other.decode(ids) == own.decode(ids) == "vitamin - C costs 5 % more : yes"


def test_bytes_stand_for_themselves():
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert (characters[ord("A")], characters[ord(" ")], characters[10]) == ("A", "Ġ", "Ċ")


def test_a_tokenizer_of_somebody_else_is_refused_by_name():
    own = trained("byte")
    own.type = "mine"
    with pytest.raises(CheckpointError, match="'mine' can't be exported"):
        tokenizer_json(own)


@pytest.mark.every_day(2)
def test_reading_one_back(pair, tmp_path):
    own, _ = pair
    folder = saved(tmp_path, tokenizer_json(own), {"eos_token": own.token(own.end_id)})
    found = read_tokenizer(folder, own.vocab_size, [])
    assert (found.vocab_size, found.end_id) == (own.vocab_size, own.end_id)
    assert found.special_ids["<|im_end|>"] == own.special_ids["<|im_end|>"]
    assert found.encode(TEXTS[0]) == own.encode(TEXTS[0])


def test_rows_without_tokens_are_filled_up(tmp_path):
    pytest.importorskip("tokenizers")
    found = read_tokenizer(saved(tmp_path, char_tokenizer(7)), 11, [1])
    assert (found.vocab_size, found.end_id, found.token(10)) == (11, 1, "<|extra_10|>")
    assert found.decode([*found.encode("abc"), 9, 10]) == "abc"
    with pytest.raises(CheckpointError, match="7 ids, and the token embedding has 6 rows"):
        read_tokenizer(tmp_path, 6, [])


@pytest.mark.every_day(1)
@pytest.mark.parametrize(
    "settings", [{"eos_token": "c"}, {"eos_token": {"content": "c", "lstrip": False}}]
)
def test_the_end_is_what_the_folder_says(tmp_path, settings):
    pytest.importorskip("tokenizers")
    found = read_tokenizer(saved(tmp_path, char_tokenizer(), settings), 11, [1])
    assert found.end_id == 4


@pytest.mark.slow
def test_cutting_and_filling_up_are_not_taken_over(tmp_path):
    pytest.importorskip("tokenizers")
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    found = read_tokenizer(saved(tmp_path, char_tokenizer() | {"truncation": cut}), 11, [1])
    assert len(found.encode("abcabc")) == 6


@pytest.mark.slow
def test_what_is_put_before_a_text_is_told(tmp_path, caplog):
    pytest.importorskip("tokenizers")
    parts = [
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    template = {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": [*parts, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }
    content = char_tokenizer() | {"post_processor": template}
    found = read_tokenizer(saved(tmp_path, content), 11, [1])
    assert "puts </s> before each text" in caplog.text
    assert found.encode("ab") == [2, 3]
    # So the exported one doesn't either.
    assert tokenizer_json(found)["post_processor"] is None


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, {"model": {"type": "none"}}, {"model": {"type": "WordLevel"}}]
)
def test_damaged_ones_are_one_line(tmp_path, content):
    pytest.importorskip("tokenizers")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as caught:
        read_tokenizer(saved(tmp_path, content), 11, [1])
    assert "\n" not in str(caught.value)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="AutoTokenizer"):
        read_tokenizer(tmp_path, 11, [1])


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ResourceError, match=r"llmlab\[hf\]"):
        read_tokenizer(saved(tmp_path, char_tokenizer()), 11, [1])
    # Words, characters and bytes are written without it.
    for kind in ("word", "char", "byte"):
        assert tokenizer_json(trained(kind))["added_tokens"]


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(corpus=st.lists(texts.filter(str.split), min_size=1, max_size=4))
@example(corpus=["vitamin - C", "x*y (a.b)", "\\ ^ ] [ - $ . ' \" `", "é-é", "a+ b"])
def test_any_learned_spacing_can_be_written(corpus):
    library = pytest.importorskip("tokenizers")
    own = TOKENIZERS.build("word", "tokenizer").train(corpus)
    other = library.Tokenizer.from_str(json.dumps(tokenizer_json(own)))
    for text in corpus:
        ids = own.encode(text)
        assert other.encode(text).ids == ids
        assert other.decode(ids).replace(" ", "") == own.decode(ids).replace(" ", "")
