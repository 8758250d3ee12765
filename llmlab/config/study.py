"""What of a configuration concerns a study as a whole, and none of its jobs alone."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from llmlab.config.values import Key, check_fields
from llmlab.errors import ConfigError

Seeds = Annotated[
    str | None, Key("auto: add seeds until the question is decided", choices=("auto",))
]
MetricName = Annotated[
    str | None, Key("the number to compare arms by; null: val_loss where all have it, else loss")
]
Direction = Annotated[
    str | None, Key("which way the metric is better", choices=("lower", "higher"))
]
Baseline = Annotated[str | None, Key("the arm to compare the others with: positions=learned")]
StudySpec = Annotated[dict[str, Any], Key("how sure a study is to be: alpha, resolution, ...")]


@dataclass(frozen=True)
class Study:
    """The keys of `study`."""

    alpha: Annotated[float, Key("greatest chance of any false claim", above=0, below=1)]
    resolution: Annotated[float, Key("a difference too small to care about", low=0)]
    max_seeds: Annotated[int, Key("most seeds of an arm with seeds=auto", low=3, high=1_000)]
    jobs: Annotated[bool, Key("whether the jobs are listed below the arms")]


@dataclass(frozen=True)
class Question:
    """The question of a sweep; the keys are those of the configuration."""

    seeds: Seeds = None
    metric: MetricName = None
    direction: Direction = None
    baseline: Baseline = None
    study: StudySpec = None  # type: ignore[assignment]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Question":
        """Take it from a configuration, or from what `to_dict` has returned."""
        problems: list[str] = []
        own = check_fields(cls, {key: values.get(key) for key in STUDY_KEYS}, "", problems)
        own["study"] = check_study(own, problems)
        if problems:
            raise ConfigError(problems)
        return cls(**own)

    @property
    def options(self) -> Study:
        """The keys of `study`."""
        return Study(**self.study)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {key: getattr(self, key) for key in STUDY_KEYS}


# What is asked of the jobs of a sweep together, and of none of them alone.
STUDY_KEYS = tuple(field.name for field in fields(Question))


def check_study(values: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the keys of `study`, checked."""
    return check_fields(Study, values.get("study"), "study", problems)
