"""Answers that are empty, or longer than the context; prompts of white space; templates."""

import logging
from dataclasses import replace

import pytest
from chat_lab import CHATS, chatml_model, checkpoint, config, lab, model  # noqa: F401
from small_run import SIZES

from llmlab import build
from llmlab.cli.start import compose
from llmlab.config.template import by_tokens
from llmlab.errors import ConfigError
from llmlab.phases.answering import Answerer, replier
from llmlab.phases.chat.chat import take
from llmlab.phases.chat.speaker import Speaker
from llmlab.text import train_tokenizer

QUESTION, ANSWER = next(iter(CHATS.items()))


def pretrained(tokenizer="char"):
    """Return an untrained model that continues text."""
    given = compose("phase=pretrain", *SIZES)
    known = train_tokenizer(tokenizer, given.tokenizer["corpus"])
    return given, build.new_model(given, known)


def test_a_chat_goes_on_and_says_so_once(config, model, caplog, capsys):  # noqa: F811
    spec = {"type": "sample", "temperature": 0, "logit_bias": {model.tokenizer.end_id: -100}}
    given = replace(config, sampler=spec, max_new_tokens=60)
    speaker = Speaker(given, model)
    speaker.conversation.remember = True
    with caplog.at_level(logging.WARNING):
        for line in (QUESTION, "/retry", QUESTION, "/tokens"):
            take(speaker, line)
    assert sum("longer than the context, 36" in told for told in caplog.messages) == 1
    turns = speaker.conversation.turns
    assert [turn.prompt for turn in turns] == [QUESTION] * 2
    assert len(model.tokenizer.encode(turns[0].answer)) == 60
    # What was said doesn't fit any more, so the last prompt is answered as the first was.
    assert turns[0].answer == turns[1].answer
    assert capsys.readouterr().err.splitlines()[-1].startswith("60 tokens are in view") is False


def test_samples_of_a_training_say_once_that_the_context_was_full(config, model, caplog):  # noqa: F811
    spec = {"type": "sample", "temperature": 0, "logit_bias": {model.tokenizer.end_id: -100}}
    given = replace(config, sampler=spec, max_new_tokens=60)
    sample = replier(given, model, model.params)
    assert sample(QUESTION) == sample(QUESTION) != ""
    assert sum("longer than the context, 36" in told for told in caplog.messages) == 1


def test_special_tokens_say_which():
    given, own = chatml_model()
    assert by_tokens(own.tokenizer) == "chatml"
    assert by_tokens(pretrained()[1].tokenizer) is None
    auto = replace(given, phase="tune", template="auto")
    assert build.new_model(auto, own.tokenizer).template_spec == "chatml"
    assert build.new_model(given, own.tokenizer).template_spec == "chatml"  # as it was named
    raw = replace(auto, phase="pretrain")
    assert build.new_model(raw, own.tokenizer).template_spec == "none"


@pytest.mark.every_day(1)
@pytest.mark.parametrize("prompt", ["\n", " ", "\t\n"])
def test_white_space_is_a_prompt(prompt):
    given, own = pretrained()
    assert compose("phase=list", f"prompt={prompt}").prompt == prompt
    answerer = Answerer(given, own)
    assert answerer.encode(prompt) == own.tokenizer.encode(prompt)
    with pytest.raises(ConfigError, match="prompt: empty"):
        answerer.encode("")


def test_an_empty_answer_is_said(config, model, caplog):  # noqa: F811
    spec = {"type": "sample", "temperature": 0, "logit_bias": {model.tokenizer.end_id: 100}}
    answerer = Answerer(replace(config, sampler=spec), model)
    for ask in (answerer.reply, lambda text: list(answerer.stream_text(answerer.encode(text)))):
        caplog.clear()
        ask(QUESTION)
        assert caplog.messages == [
            "the answer is empty: what the model writes ends where it begins"
        ]
    caplog.clear()
    assert Answerer(config, model).reply(QUESTION) == ANSWER
    assert Answerer(replace(config, max_new_tokens=0), model).reply(QUESTION) == ""
    assert caplog.messages == []
