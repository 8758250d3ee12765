"""Phase `inspect`: what a checkpoint does with a text, on one page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmlab import build
from llmlab.atomic_write import replace_text
from llmlab.batch import Batch
from llmlab.checkpoints import Checkpoint
from llmlab.config import Config
from llmlab.errors import ConfigError, DataError, LlmlabError
from llmlab.inspect import patch_effects
from llmlab.network import Network
from llmlab.phases.answering import clean, log, named_checkpoint, warn_of_unknown
from llmlab.phases.evaluate import measured_text
from llmlab.phases.inspect.history import older, told
from llmlab.phases.inspect.look import Look
from llmlab.regular_file import read_regular
from llmlab.report.inspect_page import rounded, write_inspect_page
from llmlab.runs.record import new_folder
from llmlab.runs.shell import near

_MOST_BYTES = 2**24  # of a file that a line is taken from


def run(
    config: Config,
    run: None = None,
    line: int = 1,  # which line of the file that `on` names is read, if there is no `prompt`
    # A second text of as many tokens; the page shows which place of it makes the difference
    against: str | None = None,
    new_tokens: int = 16,  # how many tokens of the model's own, most probable answer are read on
    # How many rows of the validation text the effects of leaving parts out are measured on
    rows: int = 32,
    # Whether the older checkpoints that the run has kept are looked into, too
    history: bool = True,
) -> dict[str, Any]:
    """Write a page about what happens inside a checkpoint while it reads a text."""
    text, other = _text(config, line), None if against is None else clean(against)
    checkpoint = named_checkpoint(config)
    config = replace(config, checkpoint=str(checkpoint.path))
    model = build.load_model(config, checkpoint)
    log.info("checkpoint: %s", checkpoint.path)
    network = model.network(config.kernels)
    prompt = _ids(model, text)
    ids = _continued(model, network, prompt, new_tokens)
    measured, on, notes = _rows(config, model, checkpoint, rows)
    notes[:0] = _unknown(model, text, other)
    if len(ids) > model.max_seq_len:
        notes.append(f"The text has {len(ids)} tokens; the last {model.max_seq_len} are read.")
        ids = ids[-model.max_seq_len :]
    look = Look(model, network, ids, measured, notes, str(near(Path(str(config.checkpoint)))))
    content: dict[str, Any] = look.content() | {"measured": on}
    if other is not None:
        others = _ids(model, other, "inspect.against")
        paths, effect = patch_effects(network, np.asarray(prompt), np.asarray(others))
        tokens = [look.shown(id) for id in others]
        content["against"] = {"tokens": tokens, "paths": paths, "effect": rounded(effect)}
    if history and (moments := older(config, look)):
        content["history"] = told(moments)
    folder = new_folder(Path("runs/inspect").absolute())
    page, shown = write_inspect_page(folder, lambda tokens: look.cut(content, tokens))
    whole = json.dumps(content | {"maps": rounded(look.maps)}, allow_nan=False)
    replace_text(folder / "inspect.json", whole + "\n", sync=False)
    for sentence in content["findings"]:
        print(sentence)
    print(f"page: {near(page)}", flush=True)
    return {"tokens": len(shown["tokens"]), "loss": content["loss"]}


def _text(config: Config, line: int) -> str:
    if config.prompt is not None:
        return clean(config.prompt)
    if config.on is None:
        raise ConfigError("prompt: missing; give a text to read, or on=FILE and inspect.line=3")
    try:
        lines = read_regular(config.on, _MOST_BYTES).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise DataError(f"on={config.on}: {error.strerror}; name a text file") from error
    if not 1 <= line <= len(lines):
        raise ConfigError(f"inspect.line={line}: {config.on} has lines 1 to {len(lines)}")
    return lines[line - 1]


def _ids(model: build.Model, text: str, key: str = "prompt") -> list[int]:
    ids = model.template.encode_prompt(model.tokenizer, text)
    if len(ids) < 2:
        raise ConfigError(f"{key}: {len(ids)} token; a look inside needs two at least")
    return ids


def _unknown(model: build.Model, text: str, other: str | None) -> list[str]:
    """Return what is to be said of words that the vocabulary lacks."""
    told = {"The text has words that are": text, "inspect.against has words that are": other}
    found = {name: warn_of_unknown(model.tokenizer, each or "") for name, each in told.items()}
    return [f"{name} {said}; read as unknown." for name, said in found.items() if said]


def _continued(model: build.Model, network: Network, ids: list[int], count: int) -> list[int]:
    """Return the ids with the most probable answer behind them, as far as the context reaches."""
    ends = {model.tokenizer.end_id, *model.template.stop_ids(model.tokenizer)}
    ids = list(ids)
    for _ in range(min(count, model.max_seq_len - len(ids))):
        token = int(np.argmax(network.forward(ids)[-1]))
        ids.append(token)
        if token in ends:
            break
    return ids


def _rows(
    config: Config, model: build.Model, checkpoint: Checkpoint, count: int
) -> tuple[Batch | None, str | None, list[str]]:
    """Return rows to measure effects on, which they are, and what is to be said of them."""
    try:
        measured = measured_text(config, model, checkpoint)
    except LlmlabError as error:
        said = f"Without a text to measure on there are no effects on the loss: {error}"
        return None, None, [said]
    batch = next(iter(measured.dataset.batches(count, config.seed, 0)))
    on = f"{len(batch.inputs)} rows of {measured.name}"
    return batch, on, [f"Effects on the loss are measured on {on}."]
