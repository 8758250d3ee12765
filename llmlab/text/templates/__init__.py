"""Chat templates, one module each; a new file here is registered by being here."""

from llmlab.registry import load_package
from llmlab.text.templates.base import (
    ROLES,
    TEMPLATES,
    Message,
    Template,
    without_end_marker,
)
from llmlab.text.tokenizers.base import END, Fragment

load_package(__name__, __path__)

__all__ = ["END", "ROLES", "TEMPLATES", "Fragment", "Message", "Template", "without_end_marker"]
