"""Small tokenizers of every kind in use, as the content of a tokenizer.json; a test's own text."""

import json

TEXTS = [
    "The rain falls from the clouds when the air is cold.\n\nMountains form when plates collide.",
    "user\n\nassistant\n\nsystem\nHello there, how are you? I'm fine, thanks!  Two  spaces.\n\n",
    "def f(x):\n    return x + 1\n\n\n# 12345 67890 ... [INST] that's it [/INST]\tTabs\n\n",
    "naïve café – “quotes” 😀 漢字 Привет, мир! x² ½ é\n",
]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARKS = ("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>")
MARKS += ("<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]")
KINDS = ("llama-2", "mistral", "first", "always", "never", "unigram", "unigram-bytes")
KINDS += ("wordpiece", "byte-level", "byte-level-spaced", "llama-3", "whole-words")


def tokenizer_json(kind):
    """Return a tokenizer.json of one of `KINDS`; `MARKS`, `<s>` and `</s>` are special tokens."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    fast = tokenizers.Tokenizer(_model(kind, models))
    options = {"special_tokens": ["<unk>", "<s>", "</s>", *MARKS], "show_progress": False}
    if kind in ("llama-2", "mistral", "first", "always", "never") or kind.startswith("unigram"):
        scheme = kind if kind in ("always", "never") else "first"
        scheme = "always" if kind.startswith("unigram") else scheme
        if kind == "llama-2":
            fast.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        else:
            fast.pre_tokenizer = pre_tokenizers.Metaspace(
                "▁", prepend_scheme=scheme, split=kind != "mistral"
            )
        fast.decoder = decoders.Metaspace("▁", prepend_scheme=scheme)
        if kind in ("llama-2", "mistral"):
            steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            fast.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
            options["special_tokens"][3:3] = [f"<0x{byte:02X}>" for byte in range(256)]
    elif kind == "wordpiece":
        fast.normalizer = normalizers.BertNormalizer(lowercase=True)
        fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        fast.decoder = decoders.WordPiece()
    elif kind == "whole-words":
        fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "llama-3":
        split = pre_tokenizers.Split(tokenizers.Regex(LLAMA_3), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        fast.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        fast.decoder = decoders.ByteLevel()
    else:
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind.endswith("spaced"))
        fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(TEXTS * 4, _trainer(kind, trainers, pre_tokenizers, options))
    content = json.loads(fast.to_str())
    if kind in ("llama-2", "mistral"):
        content = _bytes_apart(content)
    elif kind == "llama-3":
        content["model"]["ignore_merges"] = True
    return content


def _model(kind, models):
    if kind.startswith("unigram"):
        return models.Unigram()
    if kind == "wordpiece":
        return models.WordPiece(unk_token="<unk>")
    if kind == "whole-words":
        return models.WordLevel(unk_token="<unk>")
    if kind in ("llama-2", "mistral", "first", "always", "never"):
        fallback = kind in ("llama-2", "mistral")
        return models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback)
    return models.BPE()


def _trainer(kind, trainers, pre_tokenizers, options):
    if kind.startswith("unigram"):
        return trainers.UnigramTrainer(vocab_size=160, unk_token="<unk>", **options)
    if kind == "wordpiece":
        return trainers.WordPieceTrainer(vocab_size=200, **options)
    if kind == "whole-words":
        return trainers.WordLevelTrainer(**options)
    if "byte" in kind or kind == "llama-3":
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        return trainers.BpeTrainer(vocab_size=420, **options)
    return trainers.BpeTrainer(vocab_size=520, **options)


def _bytes_apart(content):
    """Return the bytes' tokens as ordinary ones, which sentencepiece's are."""
    content["added_tokens"] = [
        token for token in content["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return content
