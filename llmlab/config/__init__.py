"""From composed YAML to a checked, typed configuration."""

from llmlab.config.config import Config, check_stored, kept_keys, load
from llmlab.config.model import ModelKeys

__all__ = ["Config", "ModelKeys", "check_stored", "kept_keys", "load"]
