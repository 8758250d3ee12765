"""Phases `generate` and `score` through the command line."""

from dataclasses import replace

import numpy as np
import pytest
from chat_lab import CHATS, chatml_model, checkpoint, config, lab, model  # noqa: F401
from networks import gpt_stack

from llmlab import kernels
from llmlab.cli import main
from llmlab.errors import ConfigError
from llmlab.generate import log_probabilities
from llmlab.network import Network
from llmlab.params import Layout
from llmlab.phases import generate as phase_generate
from llmlab.phases import score as phase_score
from llmlab.phases.answering import Answerer
from llmlab.phases.chat.commands import run_command
from llmlab.phases.chat.speaker import Speaker
from llmlab.phases.chat.terminal import printable
from llmlab.workspace import Context

QUESTION, ANSWER = next(iter(CHATS.items()))


@pytest.fixture
def generate(config, capsys):  # noqa: F811
    """Return what the phase prints for keys of `sampler` and of the top level."""

    def run(sampler="greedy", prompt=QUESTION, phase=phase_generate, **keys):
        own = {key: keys.pop(key) for key in ("seed", "max_new_tokens") if key in keys}
        capsys.readouterr()
        phase.run(replace(config, prompt=prompt, sampler={"type": sampler, **keys}, **own))
        return capsys.readouterr().out

    return run


def test_through_the_command_line(checkpoint, monkeypatch, capsys):  # noqa: F811
    # Hydra composes everything once only to read hydra.mode; these tests do without.
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda self, **given: None)
    keys = ["phase=generate", f"checkpoint={checkpoint}", f"prompt={QUESTION}", "sampler=sample"]
    capsys.readouterr()
    assert main([*keys, "sampler.temperature=0", "sampler.num_samples=2"]) == 0
    assert capsys.readouterr().out == f"{ANSWER}\n---\n{ANSWER}\n"
    bad = ["sampler.temperature=-1", "sampler.top_p=0", "sampler.top_k=-1"]
    assert main([*keys, *bad]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if not line.startswith("checkpoint:")] == [
        "error: sampler.temperature=-1.0: must be a finite number of at least 0 (0 is greedy)",
        "error: sampler.top_k=-1: must be at least 0 (0 is off)",
        "error: sampler.top_p=0.0: must be more than 0 and at most 1 (1 is off)",
    ]
    assert main([*keys, "sampler.temperature=nan"]) == 2
    assert capsys.readouterr().err.endswith("error: sampler.temperature=nan: must be finite\n")


def test_the_answer_alone(generate):
    assert generate() == f"{ANSWER}\n"


def test_one_likely_token_is_greedy(generate):
    for option in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert generate("sample", **option) == f"{ANSWER}\n"


def test_beam_search_answers(generate):
    out = generate("beam", num_samples=2)
    assert out.startswith(f"{ANSWER}\n---\n")
    assert out.count("---") == 1


def test_samples_differ_and_come_again(generate):
    keys = {"sampler": "sample", "temperature": 3.0, "num_samples": 3}
    out = generate(**keys)
    assert len({*out.removesuffix("\n").split("\n---\n")}) == 3
    assert generate(**keys) == out
    assert generate(**keys, seed=1) != out


@pytest.mark.parametrize(
    ("stop", "expected"), [("clouds", "Rain falls from"), ("falls from", "Rain"), ("zzz", ANSWER)]
)
def test_stop_texts(generate, stop, expected):
    for sampler in ("greedy", "sample", "beam"):
        keys = {"temperature": 0.0} if sampler == "sample" else {}
        assert generate(sampler, stop=[stop], **keys) == f"{expected}\n"


def test_a_bias_on_a_word(generate):
    assert generate("sample", temperature=0.0, logit_bias={"Rain": -100}) != f"{ANSWER}\n"
    for word, found in (("zebra", "an unknown one"), ("two words", "2 tokens")):
        with pytest.raises(
            ConfigError, match=f"^sampler.logit_bias.{word}: must be one token"
        ) as e:
            generate("sample", logit_bias={word: 1})
        assert e.value.problems[0].endswith(f"; this is {found}")


def test_nothing_is_asked_for(generate):
    assert generate(max_new_tokens=0) == ""


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt(generate, prompt):
    for phase in (phase_generate, phase_score):
        with pytest.raises(ConfigError, match=r"^prompt: empty"):
            generate(prompt=prompt, phase=phase)


def test_unknown_words_are_named(config, model, caplog):  # noqa: F811
    Answerer(config, model).reply("What zebras fall, quaggas?")
    assert "zebras, fall, quaggas" in caplog.text


def test_of_a_long_prompt_the_last_tokens_are_used(config, model, caplog):  # noqa: F811
    answerer = Answerer(config, model)
    long = f"{'night ' * 50}{QUESTION}"
    ids = answerer.encode(long)
    assert "the prompt has 59 tokens: only the last 18 are used" in caplog.text
    assert ids == model.template.encode_prompt(model.tokenizer, long)[-18:]
    assert len(Answerer(replace(config, max_new_tokens=4), model).encode(long)) == 32


def test_bytes_that_are_no_text_are_replaced(config, model):  # noqa: F811
    ids = Answerer(config, model).encode("clouds \udcff")
    assert ids == model.template.encode_prompt(model.tokenizer, "clouds \ufffd")


def test_a_terminal_gets_no_control_characters():
    hostile = "a\x1b[2Jb\rc\x00\x7f\x9b31m\u202e\tkept\nkept é☆🌟"
    assert printable(hostile) == "a␛[2Jb␍c␀␡\ufffd31m\ufffd\tkept\nkept é☆🌟"


def test_score_prints_probabilities(generate):
    text = f"User: {QUESTION} Assistant: {ANSWER}"
    rows = [line.split() for line in generate(phase=phase_score, prompt=text).splitlines()]
    assert [row[0] for row in rows[1:5]] == ["User", ":", "What", "falls"]
    assert rows[1][1] == "-"
    nats = [float(row[2]) for row in rows[2:15]]
    assert [float(row[1]) for row in rows[2:15]] == pytest.approx(np.exp(-np.array(nats)), abs=1e-4)
    assert rows[15][0] == "</s>"
    assert rows[-1][:5] == ["13", "of", "14", "tokens", "are"]
    assert float(rows[-1][-1]) == pytest.approx(np.exp(np.mean(nats)), rel=1e-3)


def test_score_of_one_token(generate):
    assert "predicted" not in generate(phase=phase_score, prompt="Rain")


@pytest.mark.parametrize("count", [2, 3, 12, 13, 14, 18, 19, 40])
def test_windows_give_each_token_half_a_context(count):
    """Against a pass of its own for each token, over just the window that it was read in."""
    context, stack = 12, gpt_stack(max_seq_len=12)
    params = Layout(stack).init(2, np.float64)
    ids = np.random.default_rng(count).integers(11, size=count)
    found = log_probabilities(Network(stack, params, context), ids.tolist())
    assert found.shape == (count - 1,)
    ctx = Context(kernels.load("numpy"), np.float64)
    for place in range(count - 1):
        windows = max(0, -(-(place + 1 - context) // 6))
        inputs = np.ascontiguousarray(ids[6 * windows : place + 1])
        assert len(inputs) >= min(place + 1, 7)
        ctx.begin(1, len(inputs))
        logits, _ = stack.forward(params.tree, inputs, ctx)
        last = logits[-1] - np.log(np.exp(logits[-1]).sum())
        assert found[place] == pytest.approx(last[ids[place + 1]], abs=1e-10)


def test_a_text_of_one_token_has_no_score():
    stack = gpt_stack()
    with pytest.raises(ValueError, match="one token"):
        log_probabilities(Network(stack, Layout(stack).init(0, np.float64), 12), [3])


def test_a_token_with_a_line_end_keeps_to_its_row(monkeypatch, capsys):
    given, own = chatml_model("byte")
    monkeypatch.setattr(phase_score, "checkpoint_model", lambda _: own)
    phase_score.run(replace(given, prompt="a\n\tb\rc"))
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:7]] == ["a", r"\n", r"\t", "b", r"\r", "c"]
    chat = Speaker(given, own)
    assert run_command(chat, "/tokens a\tb") == "a | \\t | b\n3 tokens"
