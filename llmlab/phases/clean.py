"""Phase `clean`: what can go from runs/."""

import shutil
from typing import Any

from llmlab.config import Config
from llmlab.errors import ResourceError
from llmlab.phases.runs import table
from llmlab.report.tables import human
from llmlab.runs.catalogue import Entry, catalogue, matching, needed_by_others
from llmlab.runs.lock import RunLock
from llmlab.runs.record import RECORD
from llmlab.runs.shell import near, shell_command

_MATCH = "status=failed"


def run(
    config: Config, run: None = None, where: str = _MATCH, remove: bool = False
) -> dict[str, Any]:
    """Print which runs would go and what that frees; with `remove` they go.

    A run that another one began from stays, and one that is at work.

    `where` is as in `phase=runs`.
    """
    everything = catalogue()
    chosen = matching(everything, where, "clean.where")
    going = []
    for entry in chosen:
        others = [other for other in everything if other not in chosen]
        if heir := needed_by_others(entry, others):
            print(f"{near(entry.folder)}: stays, since {near(heir.folder)} began from it")
        elif at_work(entry):
            print(f"{near(entry.folder)}: stays, since it is at work")
        else:
            going.append(entry)
    size = sum(entry.size for entry in going)
    print("\n".join(table(going)))
    if not going:
        return {"runs": 0, "bytes": 0}
    if not remove:
        command = shell_command("phase=clean", f"clean.where={where}", "clean.remove=true")
        print(f"nothing was removed; this frees {human(size, 'B', 1024)}: {command}", flush=True)
        return {"runs": 0, "bytes": 0}
    for entry in going:
        shutil.rmtree(entry.folder)
    print(f"removed; {human(size, 'B', 1024)} are free", flush=True)
    return {"runs": len(going), "bytes": size}


def at_work(entry: Entry) -> bool:
    """Tell whether a process holds a run, or a job of a sweep."""
    for record in entry.folder.rglob(RECORD):
        lock = record.parent / "lock"
        if not lock.is_file():
            continue
        try:
            RunLock(lock).release()
        except ResourceError:
            return True
    return False
