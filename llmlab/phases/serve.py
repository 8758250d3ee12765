"""Phase `serve`: models over HTTP, in the form of OpenAI's interface, and a page."""

import csv
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmlab import build
from llmlab.config import Config
from llmlab.errors import CheckpointError, ConfigError, MissingPackage
from llmlab.runs.lookup import load_present

log = logging.getLogger("llmlab")


_NEEDS_KEY = (
    "other machines can reach it, so it needs a key: serve.api_key=...; or leave serve.host out, "
    "and only this machine does"
)


def run(
    config: Config,
    run: None = None,
    # Where to listen; 0 finds a free port. A host that others reach needs a key.
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,  # what clients must send as `Authorization: Bearer KEY`
    cors: list[str] | str | None = None,  # origins whose pages may ask, as https://example.org
    names: list[str] | str | None = None,  # names of the models, instead of those of their runs
    # Answers of each model that are made at once, and that wait
    rows: int = 16,
    queue: int = 64,
    # Most tokens of an answer, characters of its prompt, bytes of its request
    max_tokens: int = 4_096,
    max_prompt: int = 100_000,
    max_body: int = 1_000_000,
    # Time for sending a request, and for its answer
    upload_seconds: float = 10.0,
    seconds: float = 300.0,
) -> dict[str, Any]:
    """Serve `checkpoint`, or several of them, until Ctrl-C or SIGTERM."""
    _need_libraries()
    from llmlab.serve.app import application
    from llmlab.serve.guard import is_loopback
    from llmlab.serve.models import Limits, Models
    from llmlab.serve.server import Stopping, listening, server_of

    limits = Limits(rows, queue, max_body, max_prompt, max_tokens, upload_seconds, seconds)
    origins, key = _texts(cors), None if api_key is None else str(api_key)
    _check(limits, port, key, origins)
    if key is None and not is_loopback(host):
        raise ConfigError(f"serve.host={host}: {_NEEDS_KEY}")
    with (
        Stopping() as stopping,
        ThreadPoolExecutor(1, "steps") as executor,
        listening(host, port) as sock,
    ):
        models = Models(_served(config, names, limits, executor))
        server = server_of(application(models, limits, host, key, origins), models.end_now)
        stopping.server = server
        told = ", ".join(each.name for each in models)
        at = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
        said = f"serving {told} at {at} (a page; OpenAI's interface at {at}/v1); Ctrl-C ends it"
        print(said, flush=True)
        server.run(sockets=[sock])
    return {}


def _texts(given: list[str] | str | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or [])


def _need_libraries() -> None:
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise MissingPackage("phase=serve", missing[0], "serve")


def _served(config: Config, names: list[str] | str | None, limits: Any, executor: Any) -> list[Any]:
    """Load the checkpoints."""
    from llmlab.serve.models import Served, names_of, scheduler_of

    paths = checkpoint_paths(config.checkpoint)
    names = [names] if isinstance(names, str) else names
    if names is not None and (len(names) != len(paths) or len({*names}) < len(names)):
        raise ConfigError(
            f"serve.names={names}: expected {len(paths)} different names, one a checkpoint"
        )
    found = []
    for name, path in zip(names or names_of(paths), paths, strict=True):
        checkpoint = load_present(path)
        model = build.load_model(replace(config, checkpoint=str(checkpoint.path)), checkpoint)
        log.info("checkpoint: %s", checkpoint.path)
        build.new_sampler(config, model.tokenizer.vocab_size)
        found.append(
            Served(
                str(name),
                model,
                model.template,
                _written(checkpoint.path),
                config.sampler,
                config.max_new_tokens,
                scheduler_of(model, config.kernels, limits, executor),
                config.context == "refill",
            )
        )
    return found


def _written(path: Path) -> int:
    """Return when a file was written, in seconds; now, if its run has pruned it meanwhile."""
    try:
        return int(path.stat().st_mtime)
    except FileNotFoundError:
        return int(time.time())


def checkpoint_paths(value: str | None) -> list[Path]:
    """Return the checkpoints that `checkpoint=[a,b]`, with its names looked up, stands for."""
    if value is None:
        raise CheckpointError(
            "no checkpoint: train first (python -m llmlab phase=pretrain), or name one with "
            "checkpoint=FILE"
        )
    if not value.startswith("["):
        return [Path(value)]
    inner = value.removeprefix("[").removesuffix("]")
    return [Path(part) for part in next(csv.reader([inner], quotechar="'"), [])]


def _check(limits: Any, port: int, key: str | None, origins: list[str]) -> None:
    """Refuse arguments that are out of their range."""
    from llmlab.generate.samplers.base import require

    least = {"rows": 1, "queue": 0, "tokens": 1, "prompt": 1, "body": 1}
    shown = {"tokens": "max_tokens", "prompt": "max_prompt", "body": "max_body"}
    numbers: list[tuple[str, Any, bool, str]] = []
    for name, low in least.items():
        value = getattr(limits, name)
        numbers.append((f"serve.{shown.get(name, name)}", value, value >= low, f"at least {low}"))
    numbers += [
        ("serve.port", port, 0 <= port <= 65_535, "0 to 65535"),
        ("serve.upload_seconds", limits.upload, limits.upload > 0, "more than 0"),
        ("serve.seconds", limits.seconds, limits.seconds > 0, "more than 0"),
    ]
    if key is not None:
        plain = key.isascii() and key.isprintable() and key.strip() == key and key != ""
        numbers.append(("serve.api_key", "...", plain, "ASCII without spaces around it"))
    for origin in origins:
        fine = origin.startswith(("http://", "https://")) and origin.count("/") == 2
        numbers.append(("serve.cors", origin, fine, "an origin, as https://example.org"))
    require([(name, value, lambda ok=ok: ok, what) for name, value, ok, what in numbers])
