"""The typed configuration: what each key means, and how composed YAML becomes one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from llmlab.config.across import check_patience, check_threads, refusal
from llmlab.config.lengths import check_budget, check_lengths, check_stages
from llmlab.config.model import MANY, ModelKeys
from llmlab.config.network import POSITIONS, check_network, refuse_former_names
from llmlab.config.plugins import import_plugins
from llmlab.config.specs import check_specs
from llmlab.config.stored import overlay, without_paths
from llmlab.config.study import Baseline, Direction, MetricName, Seeds, StudySpec, check_study
from llmlab.config.values import Key, check_fields, keys_of, plain

# Free text, which is meant as it stands.
LITERAL = {"prompt", "checkpoint", "draft", "resume", "source", "target", "on", "baseline"}


@dataclass(frozen=True)
class Config:
    """Every key of a run, checked, with plain Python values."""

    phase: Annotated[str, Key("what to do", group=True)]
    lr: Annotated[float | None, Key("learning rate; null: the phase's default", kept=True, above=0)]
    epochs: Annotated[
        int | None,
        Key("passes over the data; null: the phase's default", kept=True, low=1, high=MANY),
    ]
    steps: Annotated[int | None, Key("updates, instead of epochs", kept=True, low=1, high=MANY)]
    batch_size: Annotated[int, Key("samples per batch", kept=True, low=1, high=1_000_000)]
    accumulate: Annotated[int, Key("batches per update", kept=True, low=1, high=1_000_000)]
    clip_norm: Annotated[
        float | None, Key("largest norm of the gradient; null: no clipping", kept=True, above=0)
    ]
    label_smoothing: Annotated[
        float, Key("share of each target spread over all tokens", kept=True, low=0, below=1)
    ]
    ema: Annotated[
        float | None,
        Key("decay of the running mean of the weights to use", kept=True, above=0, below=1),
    ]
    patience: Annotated[
        int | None, Key("validations without improvement that end a run", kept=True, low=1)
    ]
    seed: Annotated[int, Key("seed of all random numbers", kept=True, low=0, high=2**63 - 1)]
    checkpoint: Annotated[
        str | None, Key("start from these weights: a file, a run, latest or best")
    ]
    resume: Annotated[str | None, Key("continue: a run, a sweep, a checkpoint file, or latest")]
    allow_changed_data: Annotated[bool, Key("resume even if the data have changed")]
    threads: Annotated[
        int | str, Key("threads for training, or auto", low=1, high=4_096, choices=("auto",))
    ]
    workers: Annotated[
        str,
        Key("what shares a batch: fork, processes here; mpi, ranks", choices=("fork", "mpi")),
    ]
    kernels: Annotated[
        str, Key("numpy, numba or auto", kept=True, choices=("numpy", "numba", "auto"))
    ]
    dtype: Annotated[str, Key("float32 or float64", kept=True, choices=("float32", "float64"))]
    plugins: Annotated[list[str], Key("your own modules to import first: my_layers.py or [a,b]")]
    prompt: Annotated[str | None, Key("text for generate and score; question for full")]
    template: Annotated[
        Any,
        Key("how a chat becomes text; auto: as the model was trained; none: unchanged", kept=True),
    ]
    max_new_tokens: Annotated[
        int | None, Key("maximum tokens in an answer; null: as many as the context has", low=0)
    ]
    context: Annotated[
        str,
        Key("a full context: continue with its last half, or stop", choices=("refill", "stop")),
    ]
    draft: Annotated[
        str | None, Key("what guesses tokens ahead, for speed: ngram, or a smaller checkpoint")
    ]
    draft_tokens: Annotated[int, Key("maximum tokens in a guess", low=1, high=15)]
    chat: Annotated[bool, Key("whether full ends with a chat")]
    source: Annotated[str | None, Key("the folder that import reads")]
    target: Annotated[str | None, Key("what export writes; for import, an extra copy")]
    on: Annotated[
        str | None, Key("text for evaluate: pretrain, tune or a file; for profile: a stage")
    ]
    save_every: Annotated[int | None, Key("steps between checkpoints; null: ten in a run", low=1)]
    eval_every: Annotated[
        int | None, Key("steps between validations; null: an epoch or a tenth", kept=True, low=1)
    ]
    log_every: Annotated[int, Key("steps between rows of metrics", low=1)]
    keep: Annotated[
        int | str,
        Key("recent checkpoints to keep; all; log: fewer and fewer", low=2, choices=("all", "log")),
    ]
    max_bad_steps: Annotated[
        int, Key("consecutive non-finite steps that stop a run", kept=True, low=1)
    ]
    report: Annotated[
        bool | str,
        Key("whether a run leaves report.html; auto: one of 20 s or more", choices=("auto",)),
    ]
    seeds: Seeds
    metric: MetricName
    direction: Direction
    baseline: Baseline
    study: StudySpec
    callbacks: Annotated[dict[str, Any], Key("what watches a training, by name; null removes one")]
    stages: Annotated[dict[str, Any], Key("lr, epochs and steps of each stage, for full")]
    positions: Annotated[str, Key("position encoding; preset: the model's own", choices=POSITIONS)]
    model: Annotated[dict[str, Any], Key("the network", group=True, kept=True)]
    adapter: Annotated[
        Any, Key("what is trained beside a frozen network; null: all of it", kept=True)
    ]
    optimizer: Annotated[dict[str, Any], Key("the update rule", group=True, kept=True)]
    schedule: Annotated[dict[str, Any], Key("how lr changes with the step", group=True, kept=True)]
    tokenizer: Annotated[dict[str, Any], Key("text to ids", group=True, kept=True)]
    data: Annotated[
        dict[str, Any], Key("what to train on: data.pretrain and data.tune", group=True)
    ]
    sampler: Annotated[dict[str, Any], Key("how the next token is chosen", group=True)]
    budget: Annotated[
        dict[str, Any], Key("what each training may spend, in place of epochs", True, True)
    ]
    tracker: Annotated[dict[str, Any], Key("where metrics go besides the run's folder", group=True)]
    # What the phase alone takes, typed as `NAME.argument=value`; its signature says what.
    arguments: dict[str, Any] = field(default_factory=dict)
    # The keys that were typed on the command line, dotted; a group's name if the group was chosen
    # there.
    typed: frozenset[str] = field(default=frozenset())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        values = {item.name: _copied(getattr(self, item.name)) for item in fields(self)}
        own = values.pop("arguments")
        return values | ({self.phase: own} if own else {}) | {"typed": sorted(self.typed)}

    def is_typed(self, key: str) -> bool:
        """Tell whether `key`, something around it or something inside it was typed."""
        return any(
            key == given or key.startswith(f"{given}.") or given.startswith(f"{key}.")
            for given in self.typed
        )

    def for_stage(self, stage: str) -> "Config":
        """Return the configuration of one stage of `full`, with lr, epochs and steps of its own.

        A typed `stages.X.lr` beats a top-level `lr`, which beats the stage's own. `epochs` and
        `steps` go together: a stage that sets one of them overrides both.
        """
        if self.phase == stage:
            return replace(self, stages={})
        own = self.stages[stage]
        lengths = {key: own[key] for key in ("epochs", "steps")}
        if not self._typed_in(stage, *lengths) and (self.epochs, self.steps) != (None, None):
            lengths = {"epochs": self.epochs, "steps": self.steps}
        lr = own["lr"] if self.lr is None or self._typed_in(stage, "lr") else self.lr
        return replace(self, phase=stage, lr=lr, stages={}, **lengths)

    def _typed_in(self, stage: str, *keys: str) -> bool:
        whole = f"stages.{stage}"
        return whole in self.typed or any(f"{whole}.{key}" in self.typed for key in keys)

    def reproducible(self) -> dict[str, Any]:
        """Return what decides the numbers, for a checkpoint.

        It contains no path, name, prompt or machine: the same experiment gives the same bytes
        wherever it runs. Of `data`, only the stage's own part is kept.
        """
        values = {n: getattr(self, n) for n, (_, key) in keys_of(Config).items() if key.kept}
        values["phase"] = self.phase
        values["data"] = {k: v for k, v in self.data.items() if self.phase in ("full", k)}
        return without_paths(values)


def kept_keys() -> list[str]:
    """Return the top-level keys that a checkpoint keeps."""
    return [*(name for name, (_, key) in keys_of(Config).items() if key.kept), "phase", "data"]


def check_stored(stored: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the values that a checkpoint's configuration does have."""
    problems: list[str] = []
    check_fields(Config, stored, "", problems)
    check_fields(ModelKeys, stored.get("model", {}), "model", problems)
    return [p for p in problems if "=" in p.split(":")[0] and "unknown key" not in p]


def load(
    composed: Any, typed: Collection[str] = (), stored: Mapping[str, Any] | None = None
) -> Config:
    """Check a composed configuration and return it typed, with everything resolved.

    Parameters
    ----------
    composed
        What Hydra composed (a DictConfig), or a mapping like it.
    typed
        The keys that were typed on the command line.
    stored
        The configuration of a checkpoint whose state is continued: it replaces what wasn't
        typed.

    Raises
    ------
    ConfigError
        With every problem found, each naming its key.
    """
    problems: list[str] = []
    literal = LITERAL & set(typed)
    values = plain(composed, problems, literal)
    if stored is not None:
        foreign = keys_of(Config).keys() - kept_keys()  # where to write, what to import
        own = {key: value for key, value in stored.items() if key not in foreign}
        values = overlay(values, without_paths(own), typed)
    if isinstance(values.get("plugins"), str):
        values["plugins"] = [values["plugins"]]
    phase = values.get("phase")
    if phase != "search" and not any(key.split(".")[0] == "search" for key in typed):
        values.pop("search", None)  # an experiment that is searched trains, too
    arguments = values.pop(phase) if isinstance(values.get(phase), Mapping) else {}
    values = check_fields(Config, values, "", problems)
    refuse_former_names(values.get("model"), typed, problems)
    model = check_fields(ModelKeys, values.get("model"), "model", problems)
    stages = check_stages(values, problems)
    check_budget(values, stages, typed, problems)
    check_lengths(values, stages, typed, problems)
    if values.get("plugins") and "plugins" not in typed:
        problems.append("plugins: only taken from the command line, since it runs code")
    elif isinstance(values.get("plugins"), list):
        problems += import_plugins(values["plugins"])
    values |= {"model": model, "stages": stages, "study": check_study(values, problems)}
    check_specs(values, typed, problems)
    check_network(values, typed, stored is not None, problems)
    check_patience(values, problems)
    check_threads(values, problems)
    if problems:
        raise refusal(list(dict.fromkeys(problems)), typed, stored)
    return Config(**values, arguments=dict(arguments), typed=frozenset(typed))


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
