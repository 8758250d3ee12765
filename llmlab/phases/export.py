"""Phase `export`: a checkpoint becomes a folder that transformers loads."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmlab import build
from llmlab.config import Config
from llmlab.errors import ConfigError
from llmlab.exchange import write_folder
from llmlab.phases.answering import named_checkpoint

log = logging.getLogger("llmlab")


def run(config: Config, run: None = None) -> dict[str, Any]:
    """Write the folder `target`."""
    if config.target is None:
        raise ConfigError("target: missing; name the folder to write: target=DIR")
    checkpoint = named_checkpoint(config)
    # As they are stored: the dtype of this configuration says how to compute.
    stored = np.result_type(*(a for n, a in checkpoint.arrays.items() if n.startswith("params/")))
    model = build.merged(build.load_model(replace(config, dtype=str(stored)), checkpoint))
    target = Path(config.target).expanduser().absolute()
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
