"""Chat templates against transformers' own rendering of the same messages."""

import pytest

from llmlab.text import TEMPLATES, TOKENIZERS, Message

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATS = [
    [("user", "What's up?")],
    [("user", "Hello!"), ("assistant", "Hi there.")],
    [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", " And 2+2? ")],
    [("user", "a\n\nb é 漢"), ("assistant", "line\nline"), ("user", "x"), ("assistant", "y\n")],
]
TEXTS = ["What's the answer, user? Be brief.\n\nassistant system"] * 3


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name, jinja", [("chatml", CHATML), ("llama", LLAMA)])
def test_same_text_and_same_ids(name, jinja, chat, reply):
    template = TEMPLATES.build(name, "template")
    ours = TOKENIZERS.build(
        {"type": "bpe", "vocab_size": 320, "specials": list(template.specials)}, "tokenizer"
    ).train(TEXTS)
    from tokenizers import Tokenizer as Fast

    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Fast.from_str(__import__("json").dumps(ours.to_dict()["json"])),
        bos_token="<|begin_of_text|>" if name == "llama" else None,
        chat_template=jinja,
    )
    messages = [{"role": role, "content": content} for role, content in chat]
    options = {"chat_template": jinja, "add_generation_prompt": reply}
    own = [Message(role, content) for role, content in chat]
    text = theirs.apply_chat_template(messages, tokenize=False, **options)
    assert template.text(own, reply) == text
    ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    assert template.encode_messages(ours, own, reply)[0] == list(ids)
