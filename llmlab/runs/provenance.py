"""What a run's numbers depend on besides its configuration: code, versions, machine."""

import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = {
    "numpy": "numpy",
    "llmlab": "llmlab",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "numba": "numba",
    "tokenizers": "tokenizers",
}
_GIT_SECONDS = 5.0
_WHERE = ("rev-parse", "--show-toplevel", "--git-dir", "--git-common-dir", "HEAD")
_HARMLESS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_HARMLESS += ("-c", "core.fileMode=false")  # bits of files that not every file system has
# As llmlab was started, without what would lead git elsewhere.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def provenance() -> dict[str, Any]:
    """Return git revision, versions, BLAS, processor and platform, as plain JSON values."""
    return {
        "git": git_state(),
        "versions": {"python": platform.python_version()} | _versions(),
        "blas": blas(),
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "platform": platform.platform(),
        "host": platform.node(),
    }


def git_state() -> dict[str, Any] | None:
    """Return revision and dirtiness of llmlab's checkout, else of the user's own around here."""
    package = Path(__file__).resolve().parents[1]
    here = Path.cwd()
    own = [folder for folder in (here, *here.parents) if (folder / ".git").exists()][:1]
    # An installed package may lie inside somebody's repository without being part of it.
    for folder in (package.parent, *own):
        mine = folder not in own or all(
            path.stat().st_uid == os.geteuid() for path in (folder, folder / ".git")
        )
        if not (folder / ".git").exists() or not mine:
            continue
        told = _git(folder, _WHERE, GIT_CEILING_DIRECTORIES=str(folder.parent))
        if told is not None and told.count("\n") == 3:
            root, repository, common, revision = told.split("\n")
            if Path(root) == folder:
                dirty = _is_dirty(folder, folder / repository, folder / common, revision)
                return {"folder": root, "revision": revision, "dirty": dirty}
    return None


def _is_dirty(root: Path, repository: Path, common: Path, revision: str) -> bool | None:
    """Return whether tracked files differ from the revision; None if git can't tell.

    The repository's own configuration isn't read, since in it filters, fsmonitor, hooks, ssh and
    more name programs that git would run: an empty repository borrows index and objects.
    """
    with tempfile.TemporaryDirectory(prefix="llmlab-git-") as name:
        empty = Path(name)
        for part in ("objects", "refs"):
            (empty / part).mkdir()
        (empty / "HEAD").write_text(f"{revision}\n")
        changes = _git(
            root,
            ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all"),
            GIT_DIR=name,
            GIT_WORK_TREE=str(root),
            GIT_INDEX_FILE=str(repository / "index"),
            GIT_OBJECT_DIRECTORY=str(common / "objects"),
        )
    return None if changes is None else bool(changes)


def blas() -> list[dict[str, Any]]:
    """Return the BLAS libraries that NumPy computes with: their core type and threads.

    Other packages bring some of their own, which are there only once they are imported.
    """
    from threadpoolctl import threadpool_info

    loaded = [library for library in threadpool_info() if library["user_api"] == "blas"]
    own = [library for library in loaded if "numpy" in str(library.get("filepath"))]
    return [
        {
            "name": library["internal_api"],
            "version": library["version"],
            "core": library.get("architecture"),
            "threads": library["num_threads"],
        }
        for library in own or loaded
    ]


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def bits_may_differ(recorded: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what affects the last bits and has changed: {what: (then, now)}.

    The threads of the BLAS aren't looked at, since training sets them itself; nor is numba where
    its kernels weren't used.
    """
    deciding = ["numpy", "BLAS", "CPU"] + ["numba"] * (recorded.get("kernels") == "numba")
    pairs = {what: (_of_bits(what, recorded), _of_bits(what, now)) for what in deciding}
    return {what: pair for what, pair in pairs.items() if pair[0] != pair[1] and pair[0]}


def _of_bits(what: str, record: dict[str, Any]) -> str:
    if what in ("numpy", "numba"):
        return str(record.get("versions", {}).get(what, ""))
    if what == "CPU":
        return str(record.get("cpu", ""))
    return ", ".join(
        " ".join(str(library.get(key)) for key in ("name", "version", "core"))
        for library in record.get("blas", [])
    )


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, package in _PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout that isn't installed
            found[name] = None
    return found


def usable_cpus() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _git(folder: Path, arguments: Sequence[str], **variables: str) -> str | None:
    """Return what git says, or None: no git, no repository, too slow."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *_HARMLESS, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_SECONDS,
            env=_ENVIRONMENT | {"GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": ""} | variables,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
