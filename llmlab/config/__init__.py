"""From composed YAML to a checked, typed configuration."""

from llmlab.config.config import Config, check_stored, kept_keys, load
from llmlab.config.model import Model

__all__ = ["Config", "Model", "check_stored", "kept_keys", "load"]
