"""A laboratory for language models in pure NumPy, driven by YAML.

The names below are the library: `from llmlab import Trainer, build_stack`. Each is imported when
it is first asked for, so that `import llmlab` costs nothing and needs no Hydra.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmlab.checkpoints import load, save
    from llmlab.generate.engine import Engine
    from llmlab.layers import Stack, build_stack
    from llmlab.measure import Evaluator, entropy_floor
    from llmlab.network import Network
    from llmlab.optim.adam import Adam
    from llmlab.params import Layout
    from llmlab.text import Tokenizer, train_tokenizer
    from llmlab.text.datasets.chats import chats
    from llmlab.text.datasets.lines import lines
    from llmlab.train.fit import fit, total_steps
    from llmlab.train.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "Adam",
    "Engine",
    "Evaluator",
    "Layout",
    "Network",
    "Stack",
    "Tokenizer",
    "Trainer",
    "build_stack",
    "chats",
    "entropy_floor",
    "fit",
    "lines",
    "load",
    "save",
    "total_steps",
    "train_tokenizer",
]

_HOMES = {
    "Adam": "llmlab.optim.adam",
    "Engine": "llmlab.generate.engine",
    "Evaluator": "llmlab.measure",
    "Layout": "llmlab.params",
    "Network": "llmlab.network",
    "Stack": "llmlab.layers",
    "Tokenizer": "llmlab.text",
    "Trainer": "llmlab.train.trainer",
    "build_stack": "llmlab.layers",
    "chats": "llmlab.text.datasets.chats",
    "entropy_floor": "llmlab.measure",
    "fit": "llmlab.train.fit",
    "lines": "llmlab.text.datasets.lines",
    "load": "llmlab.checkpoints",
    "save": "llmlab.checkpoints",
    "total_steps": "llmlab.train.fit",
    "train_tokenizer": "llmlab.text",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llmlab' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *__all__})
