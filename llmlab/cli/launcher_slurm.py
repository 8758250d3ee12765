"""SLURM, through submitit and its plug-in for Hydra."""

import getpass
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import DictConfig, OmegaConf

from llmlab.cli.lost_jobs import CANCELLED, LOST
from llmlab.errors import ConfigError, ResourceError

# Of a job that has ended; in all other states it runs or will run.
_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL")
_ENDED += ("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
_LONGEST_PAUSE = 30.0  # seconds between two looks at the queue


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """Submit a batch of jobs as an array, wait until all have ended, and cancel them on Ctrl-C.

    What became of a job is in its folder, so neither accounting nor submitit's files are read.
    """

    @classmethod
    def of(cls, settings: DictConfig) -> "SlurmLauncher":
        """Return the launcher with the values of `hydra.launcher`.

        A text of several lines is refused: submitit would write the second as a command.
        """
        plain = OmegaConf.to_container(settings, resolve=True)
        assert isinstance(plain, dict)
        for key, value in plain.items():
            if isinstance(value, str) and not value.isprintable():
                raise ConfigError(f"hydra.launcher.{key}={value!r}: must be one line of text")
        return cls(**{str(key): value for key, value in plain.items() if key != "_target_"})

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        # By this name they are found and cancelled, even if sbatch was interrupted.
        name = f"{self.params['name']}-{secrets.token_hex(4)}"
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        rows = [
            ([*tokens], "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, tokens in zip(numbers, job_overrides, strict=True)
        ]
        try:
            found = self._submit(name, rows)
            print(f"submitted: {len(found)} jobs as {found[0].partition('_')[0]}", flush=True)
            states = _wait(name, found)
        except KeyboardInterrupt:
            _slurm("scancel", f"--user={getpass.getuser()}", f"--name={name}")
            raise
        return [_outcome(states[job]) for job in found]

    def _submit(self, name: str, rows: Sequence[Sequence[Any]]) -> list[str]:
        """Submit a job for each row of arguments to `__call__`; return SLURM's numbers of them."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            jobs = self._executor(name).map_array(self, *zip(*rows, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            reason = " ".join(f"{error}".split())[-300:]
            raise ResourceError(f"launcher=slurm: sbatch refuses: {reason}") from error
        return [str(job.job_id) for job in jobs]

    def _executor(self, name: str) -> Any:
        """Return submitit's executor with the settings of `hydra.launcher`."""
        import submitit

        settings = {**self.params, "name": name}
        folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
        shared = set(OmegaConf.structured(BaseQueueConf).keys())
        try:
            executor = submitit.AutoExecutor(
                folder, cluster="slurm", slurm_max_num_timeout=timeouts
            )
            executor.update_parameters(
                **{k if k in shared else f"slurm_{k}": v for k, v in settings.items()}
            )
        except RuntimeError as error:
            raise ResourceError(f"launcher=slurm: {error}; start this where sbatch is") from error
        return executor


def _wait(name: str, jobs: Sequence[str]) -> Mapping[str, str]:
    """Return the states that jobs have ended in; an empty one where SLURM has forgotten them."""
    began = time.monotonic()
    while True:
        # Looks become rarer: a controller has many to answer.
        time.sleep(min(max((time.monotonic() - began) / 10, 1.0), _LONGEST_PAUSE))
        listed = _slurm("squeue", "-h", "-r", "-t", "all", f"--name={name}", "-o", "%A|%F_%K|%T")
        if listed is None:
            continue  # the controller may be back soon
        states = {}
        for line in listed.splitlines():
            single, of_array, state = line.split("|")
            states[of_array] = states[single] = state
        found = {job: states.get(job, "") for job in jobs}
        if all(not state or state.startswith(_ENDED) for state in found.values()):
            return found


def _outcome(state: str) -> JobReturn:
    """Return what a job's last state means."""
    if state.startswith("CANCELLED"):
        return CANCELLED
    if state == "COMPLETED":
        return JobReturn(status=JobStatus.COMPLETED, _return_value=None)
    return LOST


def _slurm(*command: str) -> str | None:
    """Return what a command of SLURM's prints; None if it failed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None
