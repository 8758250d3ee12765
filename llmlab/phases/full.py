"""Phase `full`: pre-train, tune, show answers before and after, then chat."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmlab import build
from llmlab.checkpoints import load
from llmlab.config import Config
from llmlab.config.template import with_roles
from llmlab.phases import chat, run_report
from llmlab.phases.answering import Answerer
from llmlab.phases.chat.terminal import wrapped
from llmlab.phases.summary import describe
from llmlab.phases.training import stage_model, train_stage
from llmlab.runs import Run, start_of_stage

QUESTION = "How do mountains form?"
BEFORE = 12  # tokens of noise that an untrained model may show


def run(config: Config, run: Run) -> dict[str, Any]:
    """Run both stages in subfolders of the run, each from its newest state.

    Pre-training begins with the weights of `checkpoint`, if one is given.
    """
    first, second = config.for_stage("pretrain"), config.for_stage("tune")
    begin = None if config.checkpoint is None else Path(config.checkpoint)
    before = start_of_stage(run, run.stage_folder("pretrain"), config.keep).state
    model = stage_model(first, before, begin)
    # Asked as it will be once it is tuned.
    model = with_roles(second, model, second.data["tune"])
    question = config.prompt or _question(config, model)
    print(describe(first, model), flush=True)  # pyright: ignore[reportArgumentType]
    if before is None:
        _show("before training", replace(config, max_new_tokens=BEFORE), model, question)
    del model, before  # training makes or loads its own
    pretrained = train_stage(first, run, run.stage_folder("pretrain"), begin)
    tuned = train_stage(second, run, run.stage_folder("tune"), Path(pretrained["checkpoint"]))
    model = build.load_model(config, load(tuned["checkpoint"]))
    _show("after training", config, model, question)
    return {f"pretrain_{key}": value for key, value in pretrained.items()} | tuned


def after(config: Config, results: dict[str, Any]) -> None:
    """Draw the run's page, and chat at a terminal; the run stays finished however these end."""
    run_report.after(config, results)
    if config.chat and sys.stdin.isatty():
        chat.run(replace(config, checkpoint=results["checkpoint"]))


def _question(config: Config, model: build.Model) -> str:
    """Return the question of the shipped data, or one of the user's own."""
    if not model.tokenizer.unknown_words(QUESTION):
        return QUESTION
    return next(iter(chat.known_questions(config, model)), QUESTION)


def _show(when: str, config: Config, model: build.Model, question: str) -> None:
    head = "  llm> "
    answer = wrapped(Answerer(config, model).reply(question), sys.stdout, len(head))
    print(f"\n{when}\n  you> {question}\n{head}{answer}\n", flush=True)
