"""The space of a search, in Hydra's own syntax: choice, range, interval, and the tag `log`."""

from collections.abc import Sequence
from math import nextafter
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.core.override_parser.types import Override as Parsed
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from llmlab.cli.arguments import token
from llmlab.errors import ConfigError
from llmlab.named import flat
from llmlab.runs.overrides import Override
from llmlab.search.space import Dimension


def read_space(
    arguments: Sequence[str], loader: Any, config: DictConfig
) -> tuple[dict[str, tuple[str, Dimension]], list[str]]:
    """Return text and values of each key to search, and the tokens that all trials share."""
    own = OmegaConf.to_container(config.search, resolve=False)
    written = own.get("space") if isinstance(own, dict) else None
    if not isinstance(written, dict | None):
        raise ConfigError(f"search.space={written}: expected a mapping of keys to their values")
    given = {key: _written(value) for key, value in flat(written or {}) if value != {}}
    texts = {key: token(Override("", key, text)) for key, text in given.items()}
    shared = []
    for text in arguments:
        name = Override.of(text).name
        if is_several(text):
            texts[name] = text
        elif name != "phase" and name.split(".")[0] != "search":
            texts.pop(name, None)  # a single value on the command line is no longer searched
            shared.append(text)
    parser = OverridesParser.create(config_loader=loader)
    space = {key: _dimension(key, text, parser) for key, text in texts.items()}
    return space, shared


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"choice({','.join(map(_written, value))})"
    return {None: "null", True: "true", False: "false"}.get(value, str(value))


def is_several(text: str) -> bool:
    """Tell whether a token gives a key several values."""
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:
        return False


def _dimension(key: str, text: str, parser: OverridesParser) -> tuple[str, Dimension]:
    """Return how a key's values were written, and what they are."""
    (parsed,) = parser.parse_overrides([text])
    written = str(Override.of(text).value)
    if not parsed.is_sweep_override():
        raise ConfigError(
            f"search.space.{key}={written}: one value; give several: choice(a,b), range(1,4), "
            "interval(0.1,1) or tag(log,interval(1e-4,1e-1))"
        )
    found = _values(parsed)
    found.check(key, written)
    return f"{Override.of(text).prefix}{written}" if "@" in text else written, found


def _values(parsed: Parsed) -> Dimension:
    value: Any = parsed.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        low, end = value.start or 0, value.end or 0
        if isinstance(low, int) and isinstance(end, int):  # int(interval(...))
            return Dimension(low=low, high=end - 1, step=1, log=log, integer=True)
        return Dimension(low=low, high=nextafter(end, low), log=log)
    if isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        if not numbers:
            return Dimension(low=1, high=0)
        whole = all(isinstance(number, int) for number in numbers)
        step = abs(value.step)
        return Dimension(low=numbers[0], high=numbers[-1], step=step, log=log, integer=whole)
    return Dimension(options=tuple(parsed.sweep_string_iterator()))


def assigned(key: str, value: str) -> str:
    """Return the token that gives a key a value; the value is in Hydra's grammar already."""
    given = token(Override("", key, "0"))
    return f"{given.partition('=')[0]}={value}"
