"""From composed YAML to a checked, typed configuration."""

from llmlab.config.config import Config, kept_keys, load
from llmlab.config.model import Model

__all__ = ["Config", "Model", "kept_keys", "load"]
