"""Models from and for Hugging Face: GPT-2, Llama and Mistral.

A `Network` is what both sides must agree on. `config_json` turns it into config.json and back,
`spec` into the keys of `model`, `recognise` finds it in such keys, and `names` says which tensor is
which part of which array.
"""

from llmlab.exchange.folder import Imported, read_folder, write_folder
from llmlab.exchange.network import FAMILIES, Names, Network

__all__ = ["FAMILIES", "Imported", "Names", "Network", "read_folder", "write_folder"]
