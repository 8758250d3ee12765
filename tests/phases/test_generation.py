"""Answers beyond the context, the template that a model was trained with, guesses."""

import json

import pytest
from chat_lab import CHATS
from small_run import KEYS, finished_run, small_lab  # noqa: F401

from llmlab.checkpoints import peek
from llmlab.runs import resolve_checkpoint

pytestmark = pytest.mark.slow

# Never the end token, which this model likes best.
ASK = ["phase=generate", "checkpoint=run", "prompt=the sun", "max_new_tokens=50"]
ASK += ["sampler=sample", "sampler.temperature=0", "sampler.logit_bias={1: -100}"]
BEAM = ["phase=generate", "checkpoint=run", "prompt=the sun", "sampler=beam"]


def template(folder):
    return peek(resolve_checkpoint(str(folder)))["config"]["template"]


class TestBeyondTheContext:
    def test_as_many_tokens_as_asked_for_and_a_note(self, lab):
        answer = lab(*ASK)
        assert answer.code == 0 and len(answer.out.split()) == 50
        (note,) = answer.problems
        assert note.startswith("longer than the context, 12 tokens: whenever it filled up")
        stopped = lab(*ASK, "context=stop")
        assert stopped.problems == [] and len(stopped.out.split()) == 11
        assert answer.out.startswith(stopped.out.rstrip("\n"))

    def test_beam_search_refuses(self, lab):
        answer = lab(*BEAM, "max_new_tokens=50")
        assert answer.code == 2
        assert "max_new_tokens=50: sampler=beam can't go on beyond the context" in answer.err

    def test_another_value(self, lab):
        answer = lab(*ASK, "context=slide")
        assert answer.code == 2 and "context=slide: must be refill or stop" in answer.err


class TestTemplate:
    def test_a_model_that_saw_no_roles_continues_text(self, lab):
        assert template("run") == "none"
        raw = lab(*ASK)
        assert raw.out == lab(*ASK, "template=none").out
        assert raw.out != lab(*ASK, "template=user_assistant").out

    def test_a_finished_run_is_not_told_of_a_change_that_nobody_made(self, lab):
        said = lab("resume=run").err
        assert "already finished" in said and "template" not in said

    def test_tuning_gives_it_roles(self, lab):
        texts = [f"User: {prompt} Assistant: {answer}" for prompt, answer in CHATS.items()]
        (lab.folder / "chats.json").write_text(json.dumps(texts))
        keys = ["phase=tune", "checkpoint=run", "data.tune.path=chats.json", "steps=1", "threads=1"]
        keys += ["data.tune.answer_only=false", "callbacks.bar=null"]
        assert lab(*keys, "hydra.run.dir=tuned").code == 0
        assert template("tuned") == "user_assistant"
        again = [*KEYS, "checkpoint=tuned", "steps=1", "hydra.run.dir=more"]
        again = [key for key in again if not key.startswith("model.")]
        assert lab(*again).code == 0
        assert template("more") == "user_assistant"  # it has seen roles
        refused = lab(*keys, "template=none", "hydra.run.dir=other")
        assert refused.code == 2 and "has no roles" in refused.err
        assert "template=user_assistant" in refused.err


class TestDraft:
    def test_the_answer_is_the_same(self, lab):
        plain = lab(*ASK)
        for draft in ("ngram", "run"):
            found = lab(*ASK, f"draft={draft}", "draft_tokens=3")
            assert (found.code, found.out) == (0, plain.out)
            assert "guessed tokens were right" in found.err and "tokens a pass" in found.err

    def test_a_state_that_its_run_has_pruned_meanwhile_guesses_all_the_same(self, lab, monkeypatch):
        gone = lab.folder / "run/checkpoints/step-000000.npz"
        known = resolve_checkpoint("run")
        where = {"run": known, "gone": gone}
        monkeypatch.setattr("llmlab.runs.lookup.resolve_checkpoint", lambda value: where[value])
        found = lab(*ASK, "draft=gone")
        assert found.code == 0 and f"removed by its run, which goes on; using {known.name}" in (
            found.err
        )

    def test_adapters_change_nothing_about_that(self, lab):
        tune = ["experiment=tiny", "phase=tune", "checkpoint=run", "adapter=lora", "threads=1"]
        for name, seed in (("big", 1), ("small", 2)):
            more = ["steps=20", "lr=0.1", f"seed={seed}", f"hydra.run.dir={name}"]
            assert lab(*tune, *more).code == 0
        ask = ["checkpoint=big", *(key for key in ASK if key != "checkpoint=run")]
        plain = lab(*ask)
        assert plain.code == 0 and plain.out != lab(*ASK).out
        for draft in ("ngram", "run", "small", "big"):
            found = lab(*ask, f"draft={draft}", "draft_tokens=3")
            assert (found.code, found.out) == (0, plain.out), draft

    def test_what_is_refused(self, lab):
        keys = [key for key in KEYS if key != "phase=pretrain"]
        assert (
            lab("phase=pretrain", *keys, "tokenizer=char", "steps=1", "hydra.run.dir=c").code == 0
        )
        other = lab(*ASK, "draft=c")
        assert other.code == 2 and "has another vocabulary than the checkpoint (char" in other.err
        none = lab(*ASK, "draft=nothing")
        assert none.code == 4 and "error: draft=nothing: there is no" in none.err
        beam = lab(*BEAM, "draft=ngram")
        assert beam.code == 2 and "draft: not for sampler=beam" in beam.err
        assert lab(*ASK, "draft=ngram", "draft_tokens=16").code == 2
