"""Phase `import`: a Hugging Face folder becomes a checkpoint."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmlab import build
from llmlab.atomic_write import make_folder
from llmlab.checkpoints import CheckpointFolder, compare, save
from llmlab.config import Config
from llmlab.config.template import AUTO, RAW, by_tokens, typed_template
from llmlab.errors import ConfigError
from llmlab.exchange import Imported, read_adapter, read_folder
from llmlab.exchange.peft_form import CONFIG as PEFT
from llmlab.layers.lora import columns
from llmlab.params import Layout
from llmlab.phases.training import checkpoint_meta
from llmlab.runs import CHECKPOINTS, Run
from llmlab.runs.lookup import load_present
from llmlab.train.progress import Progress

log = logging.getLogger("llmlab")


def run(config: Config, run: Run) -> dict[str, Any]:
    """Write the checkpoint into the run's folder, and to `target` if that is given."""
    folder = CheckpointFolder(run.folder / CHECKPOINTS, config.keep)
    known = folder.latest()
    if known is not None:
        log.info("imported before: %s", known)
        return {"checkpoint": str(known)}
    if config.source is None:
        raise ConfigError("source: missing; name the folder to read: source=DIR")
    target = _target(config)
    source = Path(config.source).expanduser().absolute()
    model = (
        adapted_model(config, source)
        if (source / PEFT).exists()
        else imported_model(config, read_folder(source), source)
    )
    state = Progress().to_dict()
    cursor = {"epoch": state.pop("epoch"), "index": state.pop("index")}
    hashes = {"tokenizer": model.tokenizer.sha256()}
    # The vocabulary is the folder's, whatever tokenizer= is by default.
    dtype = str(model.params.flat.dtype)
    config = replace(config, tokenizer={"type": model.tokenizer.type}, dtype=dtype)
    meta = checkpoint_meta(config, model, hashes) | state
    meta |= {"cursor": cursor, "metrics_offset": 0}
    run.begin(hashes={"import": hashes})
    arrays = {f"params/{name}": view for name, view in model.params.items()}
    path = folder.save(0, arrays, meta)
    if target is not None:
        make_folder(target.parent)
        save(target, arrays, {**meta, "step": 0})
    print(
        f"{model.spec['name']}: {model.layout.num_parameters:,} parameters, vocabulary "
        f"{model.tokenizer.vocab_size}, up to {model.max_seq_len} tokens, template "
        f"{_name(model.template_spec)}\ncheckpoint: {target or path}",
        flush=True,
    )
    return {"checkpoint": str(path), "parameters": model.layout.num_parameters}


def adapted_model(config: Config, source: Path) -> build.Model:
    """Return the model of `checkpoint` with the adapter that a folder of peft holds."""
    if config.checkpoint is None:
        raise ConfigError(
            f"source={config.source}: an adapter; name the network that it belongs to: "
            "checkpoint=FILE"
        )
    base = build.load_model(config, load_present(config.checkpoint))
    size = base.tokenizer.vocab_size
    spec, arrays = read_adapter(source, base.spec, size, columns(base.stack))
    model = build.with_adapter(replace(config, adapter=spec), base)
    wanted = model.layout.trained.shapes
    compare(wanted, {name: array.shape for name, array in arrays.items()}, str(source))
    for name, array in arrays.items():
        model.params[name][...] = array
    return model


def imported_model(config: Config, found: Imported, source: Path) -> build.Model:
    """Return the model that a folder holds, in float32, or float64 if the folder has that."""
    spec = _shortened(config, found)
    stack = build.new_stack(spec, found.tokenizer.vocab_size)
    layout = Layout(stack)
    compare(layout.shapes, {n: array.shape for n, array in found.arrays.items()}, str(source))
    dtype = np.result_type(*found.arrays.values())
    params = layout.zeros(dtype)
    for name, view in params.items():
        view[...] = found.arrays.pop(name)
    template = typed_template(config) or _template(config, found)
    return build.Model(spec, stack, params, found.tokenizer, template)


def _shortened(config: Config, found: Imported) -> dict[str, Any]:
    """Return the keys of `model`, with a smaller max_seq_len if one was typed."""
    typed = sorted(key for key in config.typed if key.split(".")[0] == "model")
    wrong = [key for key in typed if key != "model.max_seq_len"]
    if wrong:
        raise ConfigError(f"{wrong[0]}: the model comes from source; leave this key out")
    if not typed:
        return found.model
    wanted, longest = config.model["max_seq_len"], found.network.max_seq_len
    if found.network.family == "gpt2" and wanted != longest:
        raise ConfigError(
            f"model.max_seq_len={wanted}: this model has learned {longest} positions; leave it out"
        )
    if wanted > longest:
        raise ConfigError(f"model.max_seq_len={wanted}: the model was made for {longest} at most")
    return {**found.model, "max_seq_len": wanted}


def _template(config: Config, found: Imported) -> Any:
    """Return the folder's own, or that whose special tokens the tokenizer has, or `template`."""
    if found.template is not None:
        return found.template
    return by_tokens(found.tokenizer) or (RAW if config.template == AUTO else config.template)


def _target(config: Config) -> Path | None:
    if config.target is None:
        return None
    target = Path(config.target).expanduser().absolute()
    if target.suffix != ".npz":
        raise ConfigError(f"target={config.target}: a checkpoint is a file *.npz")
    if target.exists():
        raise ConfigError(f"target={config.target}: it is there already; name a new file")
    return target


def _name(template: Any) -> str:
    return template if isinstance(template, str) else template["type"]
