"""A laboratory for language models in pure NumPy, driven by YAML."""

__version__ = "0.1.0"
