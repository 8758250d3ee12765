"""The launcher of a sweep."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from llmlab.cli.home import WorkerLoader
from llmlab.cli.order import Order


def launcher_of(
    order: Order, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> Launcher:
    """Return the launcher that `hydra/launcher` chooses, set up."""
    loader = WorkerLoader(hydra_context.config_loader, order.home, order.jobs)
    context = HydraContext(config_loader=loader, callbacks=hydra_context.callbacks)
    given: dict[str, Any] = {"hydra_context": context, "task_function": task_function}
    choice = config.hydra.runtime.choices["hydra/launcher"]
    if not isinstance(config.hydra.launcher, DictConfig):
        choice = None  # Hydra says what is wrong
    if choice == "dask":
        from llmlab.cli.launcher_dask import DaskLauncher

        found = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        assert isinstance(found, dict)
        own = {str(key): value for key, value in found.items()}
        launcher: Launcher = DaskLauncher(order, **own)
    elif choice == "submitit_slurm":
        from llmlab.cli.launcher_slurm import SlurmLauncher

        launcher = SlurmLauncher.of(config.hydra.launcher)
    else:
        return Plugins.instance().instantiate_launcher(**given, config=config)
    launcher.setup(**given, config=config)
    return launcher
