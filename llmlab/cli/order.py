"""All that a sweep's jobs need to know of it, for workers on any machine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.cli.home import Home
from llmlab.runs.sweep import Jobs


class Order:
    """A sweep as it was ordered; its `task` is what Hydra calls for each job."""

    def __init__(
        self, flags: Sequence[str], typed: Sequence[str], jobs: Jobs, record: dict[str, Any]
    ):
        self.flags, self.typed, self.jobs, self.record = flags, typed, jobs, record
        self.home = Home.here()

    @property
    def is_search(self) -> bool:
        """Whether what was ordered is a search."""
        phases = [text.partition("=")[2] for text in self.jobs.tokens if text.startswith("phase=")]
        return phases[-1:] == ["search"]

    def task(self, cfg: Any) -> float:
        """Run one job in this process, which may be a launcher's worker."""
        from llmlab.cli.job import config_dir
        from llmlab.cli.sweep_job import run_sweep_job

        with self.home.guarded():
            record = {**self.record, "config_dir": config_dir()}
            return run_sweep_job(cfg, self.typed, self.jobs, record)

    def of_job(self, tokens: Sequence[str], number: int) -> str:
        """Return, as JSON, what another process needs to run one job; see `OneJob`."""
        jobs = self.jobs
        values = {"flags": self.flags, "typed": self.typed, "record": self.record}
        values |= {"folder": str(jobs.folder), "sweep": jobs.tokens, "former": jobs.former}
        values |= {"job": tokens, "number": number}
        values |= {"home": self.home.folder, "path": self.home.path}
        return json.dumps(values)


@dataclass(frozen=True)
class OneJob:
    """One job of a sweep that was ordered elsewhere."""

    order: Order
    tokens: list[str]
    number: int

    @classmethod
    def of(cls, text: str) -> "OneJob":
        """Read what `Order.of_job` wrote, and stand in the sweep's folder."""
        values = json.loads(text)
        Home(0, values["home"], tuple(values["path"])).enter()
        record = values["record"]
        jobs = Jobs(Path(values["folder"]), values["sweep"], record["varying"], values["former"])
        return cls(
            Order(values["flags"], values["typed"], jobs, record), values["job"], values["number"]
        )
