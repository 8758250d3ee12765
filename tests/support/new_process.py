"""The command line in a process of its own."""

import sys

from llmlab.config.specs import registries
from llmlab.phases import PHASES


def new_process(monkeypatch):
    """Forget plug-ins, as if llmlab had just been started."""
    for registry in registries().values():
        own = {n: f for n, f in registry._factories.items() if f.__module__.startswith("llmlab.")}
        monkeypatch.setattr(registry, "_factories", own)
    for name in [name for name, phase in PHASES.items() if phase.function is not None]:
        monkeypatch.delitem(PHASES, name)
    for name in [name for name in sys.modules if name.startswith(("llmlab_plugin_", "my_"))]:
        monkeypatch.delitem(sys.modules, name)
