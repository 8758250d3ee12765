"""Damage Hugging Face folders and chat templates at random: each is read, or refused in one line.

    python tests/support/fuzz_folders.py [CASES] [SEED]

prints how many folders were read and how many refused, by file, and the longest time.
"""

import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hf_folders import LLAMA, char_tokenizer, llama_tensors, write

from llmlab.errors import CheckpointError, DataError
from llmlab.exchange import read_folder
from llmlab.text import TEMPLATES, Message

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[U] {{ m.content | trim }}"
    "{% else %}{{ m.content ~ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[A]{% endif %}"
)
VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    "",
    "x",
    "<s>",
    [],
    [[]],
    {},
    {"a": {}},
    ["</s>"] * 3,
    "\0",
]
PARTS = [
    "{{ 'a' * 10**9 }}",
    "{% for i in range(99999) %}",
    "{% endfor %}",
    "{{ x }}",
    "{{ messages[0].__class__ }}",
    "{{ self.__init__ }}",
    "{% set x = messages %}",
    "{{ messages | tojson }}",
    "{{ raise_exception('no') }}",
    "{{ 2**9**9**9 }}",
    "{{ ('%0999999999d' % 1) }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ ''.join(['a' * 99999] * 99999) }}",
    "{%- if loop -%}",
    "{% endif %}",
    "{#",
    "\0",
    "\ud800",
]
LONGEST = 60  # seconds for one folder on a busy machine; five of work end a template


def places(value, at=()):
    """Yield the path of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*at, key)
        if isinstance(item, dict | list):
            yield from places(item, (*at, key))


def damaged(rng, value):
    """Return a copy of a JSON value with one thing in it changed, removed or added."""
    value = json.loads(json.dumps(value))
    *path, last = rng.choice(list(places(value)))
    inner = value
    for key in path:
        inner = inner[key]
    what = rng.randrange(3)
    if what == 0:
        inner[last] = rng.choice(VALUES)
    elif what == 1 or not isinstance(inner, dict):
        del inner[last]
    else:
        inner[rng.choice(["x", "chat_template", "pad_token", "eos_token_id", "layer_types"])] = (
            rng.choice(VALUES)
        )
    return value


def template(rng):
    """Return a damaged template."""
    parts = list(TEMPLATE)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(parts))
        parts[at : at + rng.randrange(3)] = [rng.choice(PARTS)]
    return "".join(parts)


def case(rng, folder):
    """Write one damaged folder and return which file was damaged."""
    files = {
        "config.json": LLAMA | {"eos_token_id": 1},
        "generation_config.json": {"eos_token_id": [1, 2]},
        "tokenizer.json": char_tokenizer(),
        "tokenizer_config.json": {
            "bos_token": "a",
            "eos_token": {"content": "</s>", "lstrip": False},
            "added_tokens_decoder": {"1": {"content": "</s>", "special": True}},
            "additional_special_tokens": ["b"],
            "chat_template": TEMPLATE,
        },
        "special_tokens_map.json": {"eos_token": "</s>", "unk_token": {"content": "<unk>"}},
        "added_tokens.json": {"</s>": 1},
    }
    write(folder, LLAMA, llama_tensors())
    chosen = rng.choice([*files, "template", "bytes"])
    if chosen == "template":
        files["tokenizer_config.json"]["chat_template"] = template(rng)
    elif chosen != "bytes":
        files[chosen] = damaged(rng, files[chosen])
    texts = {name: json.dumps(content).encode() for name, content in files.items()}
    if chosen == "bytes":
        name = rng.choice(list(files))
        text = bytearray(texts[name])
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        texts[name] = bytes(text)
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    return chosen


def fuzz(cases, seed):
    """Return the counts, and the longest time; raise for what is neither read nor refused."""
    rng, counts, longest = random.Random(seed), Counter(), 0.0
    for number in range(cases):
        with tempfile.TemporaryDirectory() as name:
            what, began = case(rng, Path(name)), time.monotonic()
            try:
                found = read_folder(Path(name))
                if found.template is not None:
                    form = TEMPLATES.build(found.template, "template")
                    chat = [Message("user", "ab </s>"), Message("assistant", "b")]
                    form.encode_messages(found.tokenizer, chat)
                outcome = "read"
            except (CheckpointError, DataError) as error:
                outcome = "refused"
                assert "\n" not in str(error) and len(str(error)) < 1500, (seed, number, error)
            except BaseException as error:
                raise AssertionError(f"seed {seed}, case {number}, {what}: {error!r}") from error
            took = time.monotonic() - began
            assert took < LONGEST, (seed, number, what, took)
            longest = max(longest, took)
            counts[what, outcome] += 1
    return counts, longest


if __name__ == "__main__":
    wanted = [int(word) for word in sys.argv[1:]] + [1000, 0][len(sys.argv) - 1 :]
    found, slowest = fuzz(*wanted)
    for (file, outcome), count in sorted(found.items()):
        print(f"{file:28} {outcome:8} {count:6}")
    print(f"{sum(found.values())} cases, the longest {slowest:.1f} s")
