"""A look at YAML files that users bring, before Hydra reads them."""

from collections.abc import Sequence
from pathlib import Path

from llmlab.errors import ConfigError

_MOST_VALUES = 100_000
_FOLDER_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")


def check_user_yaml(flags: Sequence[str]) -> None:
    """Refuse files whose aliases stand for more values than a configuration can have.

    Raises
    ------
    ConfigError
        With a line for each such file. What isn't YAML at all is left to Hydra.
    """
    problems = []
    for folder in _folders(flags):
        for path in sorted(folder.rglob("*.yaml")):
            count = _values(path)
            if count > _MOST_VALUES:
                problems.append(
                    f"{path}: its aliases stand for more than {_MOST_VALUES:,} values; write a "
                    "smaller file"
                )
    if problems:
        raise ConfigError(problems)


def _folders(flags: Sequence[str]) -> list[Path]:
    found = []
    for index, flag in enumerate(flags):
        name, _, value = flag.partition("=")
        if name in _FOLDER_FLAGS:
            found.append(Path(value or flags[index + 1]))
    return [folder for folder in found if folder.is_dir()]


def _values(path: Path) -> float:
    """Count the values of a file with each alias counted as often as it is used."""
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OSError, UnicodeError, RecursionError):
        return 0
    counts: dict[int, float] = {}

    def count(node: yaml.Node | None) -> float:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) not in counts:
            counts[id(node)] = float("inf")  # an alias of a node inside itself never ends
            items = node.value if isinstance(node, yaml.SequenceNode) else sum(node.value, ())
            counts[id(node)] = 1 + sum(map(count, items))
        return counts[id(node)]

    return count(root)
