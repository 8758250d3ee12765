"""The user's own YAML: limits on its size and nesting, and the keys that it may set."""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.base import Container
from omegaconf.errors import InterpolationResolutionError

from llmlab.cli.arguments import Override
from llmlab.cli.places import conf_folder
from llmlab.errors import ConfigError
from llmlab.named import flat

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
DEEPEST = 50
MOST_REFERENCES = 2_000  # the presets of conf/ resolve some dozens
LONGEST_TEXT = 1_000_000
# Everything else of Hydra's starts programs, sets variables or writes files.
ALLOWED = ("run.dir", "sweep.dir", "sweep.subdir", "mode", "verbose")
# Of a launcher's, others are commands for a shell, classes, or addresses to take orders from.
OF_LAUNCHERS = {"n_jobs", "pre_dispatch", "batch_size", "timeout", "verbose", "workers"}
OF_LAUNCHERS |= {"partition", "account", "qos", "constraint", "exclude", "gres", "name", "comment"}
OF_LAUNCHERS |= {"timeout_min", "signal_delay_s", "max_num_timeout", "array_parallelism", "nodes"}
OF_LAUNCHERS |= {"cpus_per_task", "cpus_per_gpu", "gpus_per_node", "gpus_per_task", "mem_gb"}
OF_LAUNCHERS |= {"mem_per_gpu", "mem_per_cpu", "tasks_per_node", "stderr_to_stdout"}


class TooManyReferences(ConfigError):
    """The interpolations expand to more than a configuration can hold."""

    def __init__(self, problem: str):
        # OmegaConf makes it anew with lines of its own, one of which is the whole key.
        text, *added = problem.split("\n")
        key = [line.removeprefix("    full_key: ") for line in added if "full_key: " in line]
        super().__init__("=".join([*key, text]))


class _Files(FileConfigSource):
    """YAML files; the user's own are checked before they are parsed."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Return what the file holds."""
        if Path(self.path).resolve() == conf_folder().resolve():
            return super().load_config(config_path)
        path = Path(self.path) / self._normalize_file_name(config_path)
        text = read_yaml(path)
        try:
            _check_size(path, text)
            config = OmegaConf.load(io.StringIO(text))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else path
            reason = getattr(error, "problem", None) or str(error).split("\n")[0]
            raise ConfigError(f"{where}: {reason}; correct this file") from error
        if isinstance(config, DictConfig) and "hydra" in config:
            check_hydra(config, str(path))
        header = self._get_header_dict(text[:512])
        return ConfigResult(self.provider, f"file://{self.path}", config, header)


# A launcher's workers get this registry, and register Hydra's own class once more: by its name.
_Files.__name__ = FileConfigSource.__name__


@contextmanager
def guarded() -> Iterator[None]:
    """While open, let Hydra accept only what this module allows from the user's files."""
    Plugins.instance()  # registers Hydra's own sources
    sources = SourcesRegistry.instance().types
    files, load = sources["file"], ConfigLoaderImpl._load_single_config
    resolve = Container.resolve_parse_tree
    references = _References(resolve)

    def load_checked(self: Any, default: Any, repo: Any) -> ConfigResult:
        references.count = 0  # another configuration
        result = load(self, default, repo)
        # Only here is it known which package a file's values go to.
        if result.path.startswith("file:") and result.path != f"file://{conf_folder()}":
            check_hydra(result.config, f"{result.path[7:]}/{default.config_path}.yaml")
        _state_one_length(result.config)
        return result

    def resolve_counted(self: Any, parse_tree: Any, *args: Any, **kwargs: Any) -> Any:
        return references(self, parse_tree, *args, **kwargs)

    sources["file"] = _Files
    ConfigLoaderImpl._load_single_config = load_checked  # type: ignore[method-assign]
    Container.resolve_parse_tree = resolve_counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        sources["file"] = files
        ConfigLoaderImpl._load_single_config = load  # type: ignore[method-assign]
        Container.resolve_parse_tree = resolve  # type: ignore[method-assign]


def _state_one_length(config: Any) -> None:
    """Let a file that states `steps` alone replace `epochs` of the files before it, or reverse."""
    if not isinstance(config, DictConfig):
        return
    stages = config.get("stages")
    stages = stages.values() if isinstance(stages, DictConfig) else ()
    for group in (config, *stages):
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if isinstance(group, DictConfig) and other not in group and group.get(one) is not None:
                group[other] = None


class _References:
    """OmegaConf's resolution of references, with a limit on how many a configuration may need.

    A text of ten references to a text of ten references, and so on, would never end.
    """

    def __init__(self, resolve: Any):
        self.count = 0
        self._resolve, self._depth = resolve, 0

    def __call__(self, container: Any, parse_tree: Any, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.count > MOST_REFERENCES and self._depth:
            raise InterpolationResolutionError("too many references")
        self._depth += 1
        try:
            found = self._resolve(container, parse_tree, *args, **kwargs)
            if isinstance(found, str) and len(found) > LONGEST_TEXT:
                self.count = MOST_REFERENCES + 1
        except InterpolationResolutionError:
            if self.count <= MOST_REFERENCES:
                raise
        finally:
            self._depth -= 1
        if self.count > MOST_REFERENCES:
            if self._depth:
                raise InterpolationResolutionError("too many references")
            raise TooManyReferences(
                f"{parse_tree.getText().removesuffix('<EOF>')[:60]}: its references expand to "
                f"more than {MOST_REFERENCES:,} values or {LONGEST_TEXT:,} characters; write the "
                "value itself"
            )
        return found


def read_yaml(path: Path) -> str:
    """Return the text of a user's YAML file, if it is one that may be parsed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ConfigError(f"{path}: not a regular file; expected YAML")
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that can be read") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: larger than {MOST_BYTES:,} bytes; write a smaller file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} isn't UTF-8; save it as UTF-8") from error
    return text


def check_hydra(config: Any, where: str) -> None:
    """Refuse keys of Hydra that a file may not set; `where` names the file."""
    own = OmegaConf.to_container(config).get("hydra") if isinstance(config, DictConfig) else None  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    refused = [key for key, v in flat(own) if v not in (None, {}) and not _is_allowed(key)]
    if refused:
        of_launcher = refused[0].startswith("launcher.")
        allowed = sorted(f"launcher.{key}" for key in OF_LAUNCHERS) if of_launcher else ALLOWED
        raise ConfigError(
            f"{where}: hydra.{refused[0]}: can't be set in a file, since it could run or overwrite "
            f"something; a file may set {', '.join(allowed)}{'' if of_launcher else ', launcher'}"
        )


def _is_allowed(key: str) -> bool:
    """Tell whether a file may set a key of Hydra's, such as `launcher.partition`."""
    top, _, rest = key.partition(".")
    if top == "launcher":
        return not rest or rest in OF_LAUNCHERS
    return key.startswith(ALLOWED)


def check_stored(tokens: Sequence[str], typed: Sequence[str]) -> None:
    """Refuse keys of Hydra that come from a run's record, and that a file may not set."""
    own = {Override.of(text).name for text in typed}
    for name in (Override.of(text).name for text in tokens):
        key = name.removeprefix("hydra.").removeprefix("hydra/")
        if name.startswith("hydra") and name not in own and not _is_allowed(key):
            raise ConfigError(f"{name}: isn't taken from the record of a run; type it again")


def _check_size(path: Path, text: str) -> None:
    """Refuse nesting and aliases that would exhaust memory before any value is checked."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1
            raise ConfigError(f"{path}:{line}: nested deeper than {DEEPEST} levels; write it flat")
    counts: dict[int, float] = {}

    def count(node: yaml.Node | None) -> float:
        """Count the values with each alias counted as often as it is used."""
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) not in counts:
            counts[id(node)] = float("inf")  # an alias of a node inside itself never ends
            items = node.value if isinstance(node, yaml.SequenceNode) else sum(node.value, ())
            counts[id(node)] = 1 + sum(map(count, items))
        return counts[id(node)]

    if count(yaml.compose(text, Loader=yaml.SafeLoader)) > MOST_VALUES:
        raise ConfigError(
            f"{path}: its aliases expand to more than {MOST_VALUES:,} values; write a smaller file"
        )
