"""Phase `export`: a checkpoint becomes a folder that transformers loads."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmlab import build
from llmlab.config import Config
from llmlab.errors import ConfigError
from llmlab.exchange import LowRankMap, write_adapter, write_folder
from llmlab.layers.lora import ADAPTERS
from llmlab.phases.answering import named_checkpoint

log = logging.getLogger("llmlab")


def run(config: Config, run: None = None, only_adapter: bool = False) -> dict[str, Any]:
    """Write the folder `target`; with `only_adapter` what LoRA has learned, as peft reads it."""
    if config.target is None:
        raise ConfigError("target: missing; name the folder to write: target=DIR")
    checkpoint = named_checkpoint(config)
    # As they are stored: the dtype of this configuration says how to compute.
    stored = np.result_type(*(a for n, a in checkpoint.arrays.items() if n.startswith("params/")))
    model = build.load_model(replace(config, dtype=str(stored)), checkpoint)
    target = Path(config.target).expanduser().absolute()
    if only_adapter:
        return _adapter(model, target)
    model = build.merged(model)
    network = write_folder(
        target,
        model=model.spec,
        arrays=dict(model.params.items()),
        tokenizer=model.tokenizer,
        template=model.template_spec,
        stop_ids=model.template.stop_ids(model.tokenizer),
    )
    if network.family != "gpt2" and (network.dropout or network.embedding_dropout):
        log.warning(
            "%s has no dropout but of attention's probabilities: the others, which only matter "
            "in training, are left out",
            network.family,
        )
    print(f"{network.family}: {target}", flush=True)
    return {"target": str(target), "family": network.family}


def _adapter(model: build.Model, target: Path) -> dict[str, Any]:
    """Write the low-rank maps alone."""
    if model.adapter is None:
        raise ConfigError("export.only_adapter=true: the checkpoint has no adapter; leave it out")
    made = ADAPTERS.build(model.adapter, "adapter")
    found = made.maps(dict(model.params.items()), model.stack)
    network = write_adapter(
        target,
        model=model.spec,
        vocab_size=model.tokenizer.vocab_size,
        maps=(LowRankMap(name, cut.start, cut.stop, a, b) for name, cut, a, b in found),
        scale=made.scale,
    )
    print(f"adapter of {network.family}: {target}", flush=True)
    return {"target": str(target), "family": network.family}
