"""Chat templates, one module each; a new file here is registered by being here."""

from llmlab.registry import load_package
from llmlab.text.templates.base import (
    END,
    ROLES,
    TEMPLATES,
    Fragment,
    Message,
    Template,
    without_end_marker,
)

load_package(__name__, __path__)

__all__ = ["END", "ROLES", "TEMPLATES", "Fragment", "Message", "Template", "without_end_marker"]
