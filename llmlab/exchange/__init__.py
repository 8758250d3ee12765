"""Models from and for Hugging Face: GPT-2, Llama and Mistral.

An `Architecture` is what both sides must agree on. `config_json` turns it into config.json and
back, `spec` into the keys of `model`, `recognise` finds it in such keys, and `names` says which
tensor is which part of which array.
"""

from llmlab.exchange.architecture import Names
from llmlab.exchange.folder import Imported, read_folder, write_folder
from llmlab.exchange.peft_form import LowRankMap, read_adapter, write_adapter

__all__ = [
    "Imported",
    "LowRankMap",
    "Names",
    "read_adapter",
    "read_folder",
    "write_adapter",
    "write_folder",
]
