"""The composition root: from a checked configuration to objects."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmlab.checkpoints import Checkpoint, compare, require
from llmlab.config import Config, check_stored
from llmlab.config.stored import PATH_KEYS, stored_config
from llmlab.config.template import for_words, template_of, typed_template
from llmlab.errors import CheckpointError, ConfigError, DataError
from llmlab.generate import SAMPLERS, Sampler
from llmlab.layers import Stack, build_stack
from llmlab.layers.lora import ADAPTERS
from llmlab.network import Network
from llmlab.optim import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from llmlab.params import Arena, Layout
from llmlab.resources import check_memory, machines, resolve_threads
from llmlab.text import DATASETS, TEMPLATES, Dataset, Template, Tokenizer, train_tokenizer
from llmlab.text.paths import named
from llmlab.train.trackers import TRACKERS, Tracker

_SIZES = ("embedding_dim", "max_seq_len", "num_blocks")
# What of a checkpoint's meta everyone needs who computes with its model.
_USED = (*(f"config.model.{key}" for key in (*_SIZES, "stack")), "config.template", "tokenizer")


@dataclass
class Model:
    """A network with its parameters, and how text becomes its tokens."""

    spec: dict[str, Any]  # the keys of `model`
    stack: Stack
    params: Arena
    tokenizer: Tokenizer
    template_spec: Any
    adapter: Any = None  # the keys of `adapter`, for a network that has one

    @property
    def layout(self) -> Layout:
        """The parameters' layout."""
        return self.params.layout

    @property
    def max_seq_len(self) -> int:
        """Greatest number of tokens that the network can be given."""
        return self.spec["max_seq_len"]

    def network(self, kernels: str) -> Network:
        """Return the network with these kernels, to be asked."""
        return Network(self.stack, self.params, self.max_seq_len, kernels)

    @property
    def template(self) -> Template:
        """How a chat is written as text."""
        return TEMPLATES.build(self.template_spec, "template")


def new_tokenizer(config: Config) -> Tokenizer:
    """Return a tokenizer trained on `tokenizer.corpus`."""
    spec = {key: value for key, value in config.tokenizer.items() if key != "corpus"}
    # The corpus is the data's files, and what replaces bytes there must do so here.
    lenient = any(each.get("invalid_utf8") == "replace" for each in config.data.values())
    policy = "replace" if lenient else "error"
    corpus = config.tokenizer["corpus"]
    try:
        return train_tokenizer(spec, corpus, invalid_utf8=policy, template=for_words(config))
    except DataError as error:
        read = [s for s, each in config.data.items() if named(each["path"]) in str(error)]
        error.option = error.option and f"data.{[*read, 'pretrain'][0]}.{error.option}"
        raise


def new_model(config: Config, tokenizer: Tokenizer) -> Model:
    """Return the model of the configuration with fresh parameters."""
    stack = new_stack(config.model, tokenizer.vocab_size)
    layout = Layout(stack)
    length = config.model["max_seq_len"]
    ranks, here = machines(config)
    threads = resolve_threads(config.threads, config.batch_size, length, ranks, here)
    check_memory(config, stack, layout, length, threads, ranks, here)
    params = layout.init(config.seed, config.dtype)
    return Model(config.model, stack, params, tokenizer, template_of(config, tokenizer))


def new_stack(spec: Mapping[str, Any], vocab_size: int, adapter: Any = None) -> Stack:
    """Return the network that the keys of `model`, and of `adapter` if there is one, describe."""
    sizes = {key: spec[key] for key in _SIZES}
    stack = build_stack(spec["stack"], vocab_size=vocab_size, **sizes)
    if adapter is not None:
        ADAPTERS.build(adapter, "adapter").apply(stack)
    return stack


def with_adapter(config: Config, model: Model) -> Model:
    """Return a model with the adapter of the configuration, and its own parameters frozen."""
    if model.adapter is not None:
        raise ConfigError(
            "adapter: the checkpoint has one, which is tuned further if adapter= is left out; "
            "phase=export merges it"
        )
    stack = new_stack(model.spec, model.tokenizer.vocab_size, config.adapter)
    params = Layout(stack).init(config.seed, config.dtype)
    for name, view in model.params.items():
        params[name][...] = view
    return replace(model, stack=stack, params=params, adapter=config.adapter)


def merged(model: Model) -> Model:
    """Return the model without an adapter that computes the same."""
    if model.adapter is None:
        return model
    adapter = ADAPTERS.build(model.adapter, "adapter")
    found = adapter.merge(dict(model.params.items()), model.stack)
    stack = new_stack(model.spec, model.tokenizer.vocab_size)
    params = Layout(stack).zeros(model.params.flat.dtype)
    for name, view in params.items():
        view[...] = found[name]
    return replace(model, stack=stack, params=params, adapter=None)


def load_model(config: Config, checkpoint: Checkpoint) -> Model:
    """Return a checkpoint's model, tokenizer and template with its parameters.

    If it holds a running mean of the parameters (`ema`), that is what is returned.
    A CheckpointError says that `model.*` or `tokenizer.*` was typed and differs, or that the
    arrays don't fit.
    """
    require(checkpoint.meta, _USED, checkpoint.path, "a model")
    stored = stored_config(checkpoint.meta)
    refuse_changes(config, checkpoint, ("model", "tokenizer"))
    try:
        tokenizer = Tokenizer.from_dict(
            {k: v for k, v in checkpoint.meta["tokenizer"].items() if k not in PATH_KEYS}
        )
        if problems := check_stored(stored):
            raise ConfigError(problems)
        TEMPLATES.build(stored["template"], "template")
        stack = new_stack(stored["model"], tokenizer.vocab_size, stored.get("adapter"))
    except (ConfigError, CheckpointError) as error:
        told = "; ".join(getattr(error, "problems", [str(error)]))
        raise CheckpointError(f"{checkpoint.path}: unusable checkpoint: {told}") from error
    layout = Layout(stack)
    averaged = any(name.startswith("ema/") for name in checkpoint.arrays)
    prefix = "ema/" if averaged else "params/"
    found = {
        name.removeprefix(prefix): array
        for name, array in checkpoint.arrays.items()
        if name.startswith(prefix)
    }
    shapes = {name: array.shape for name, array in found.items()}
    compare(layout.shapes, shapes, str(checkpoint.path))
    params = layout.zeros(config.dtype)
    for name, view in params.items():
        view[...] = found[name]
    template = typed_template(config) or stored["template"]
    return Model(stored["model"], stack, params, tokenizer, template, stored.get("adapter"))


def refuse_changes(config: Config, checkpoint: Checkpoint, groups: tuple[str, ...]) -> None:
    """Raise a CheckpointError with a table if something typed differs from the checkpoint's."""
    rows = []
    for group in groups:
        stored = flat(checkpoint.meta["config"].get(group, {}), group)
        typed = flat(getattr(config, group), group)
        for key in sorted(stored.keys() | typed.keys()):
            # The corpus is a path: a checkpoint holds none, and what it gave is the vocabulary.
            placed = key.startswith("model.stack") and config.is_typed("positions")
            if key.startswith("tokenizer.corpus") or not (placed or config.is_typed(key)):
                continue
            if stored.get(key) != typed.get(key):
                rows.append(f"  {key}: checkpoint {stored.get(key)}, typed {typed.get(key)}")
    if rows:
        table = "\n".join(rows)
        raise CheckpointError(
            f"{checkpoint.path}: model and tokenizer come with the checkpoint; leave these keys "
            f"out, or start without it:\n{table}"
        )


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping with dotted keys."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    within = f"{prefix}." if prefix else ""
    return {k: v for key, item in items for k, v in flat(item, f"{within}{key}").items()}


def new_dataset(spec: Mapping[str, Any], where: str, model: Model) -> Dataset:
    """Return the dataset of one entry of `data`."""
    return DATASETS.build(
        spec,
        where,
        tokenizer=model.tokenizer,
        max_seq_len=model.max_seq_len,
        template=model.template,
    )


def new_optimizer(config: Config) -> Optimizer:
    """Return the optimizer."""
    return OPTIMIZERS.build(config.optimizer, "optimizer")


def new_schedule(config: Config, total_steps: int) -> Schedule:
    """Return the schedule for a run of `total_steps`."""
    return SCHEDULES.build(config.schedule, "schedule", total_steps=total_steps)


def new_sampler(config: Config, vocab_size: int) -> Sampler:
    """Return the sampler."""
    return SAMPLERS.build(config.sampler, "sampler", seed=config.seed, vocab_size=vocab_size)


def new_tracker(config: Config, folder: Any, run: Any) -> Tracker:
    """Return the tracker of a stage in `folder`, which is the run's or a part of it."""
    name = "-".join(folder.relative_to(run.parent).parts)
    values = config.to_dict()
    return TRACKERS.build(config.tracker, "tracker", folder=folder, name=name, config=values)
