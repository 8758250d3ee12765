"""What hundreds of starts of the command line in one process need to do only once, or not at all.

Each composes its configuration from the same twenty files. What comes out is the same to the bit;
the programs that tests start in processes of their own do without.
"""

import copy
import pickle
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hydra._internal import defaults_list
from omegaconf import OmegaConf
from omegaconf.base import Metadata


def parsed_once(load):
    """Return OmegaConf's `load`, which parses a file once as long as it stays the same."""
    parsed = {}

    def load_once(file_):
        name = file_ if isinstance(file_, str | Path) else getattr(file_, "name", None)
        if not isinstance(name, str | Path) or not Path(name).is_file():
            return load(file_)
        # A file's time is too coarse to tell of a change.
        key = (str(name), Path(name).read_bytes())
        if key not in parsed:
            parsed[key] = pickle.dumps(load(file_))
        return pickle.loads(parsed[key])  # four times as fast as a deep copy

    return load_once


def copied(metadata, memo):
    """Return a deep copy of what OmegaConf knows of a value; most of it can't change."""
    new = object.__new__(type(metadata))
    new.__dict__.update(metadata.__dict__)
    new.__dict__["flags"] = copy.copy(metadata.flags)
    new.__dict__["resolver_cache"] = copy.deepcopy(metadata.resolver_cache, memo)
    return new


def only_for_entries(choices):
    """Return Hydra's table of choices, which it makes for each file and most have no use for."""

    def table(overrides, entries, self_added):
        return choices(overrides, entries, self_added) if entries else None

    return table


@contextmanager
def cheap_starts():
    """While open, start faster."""
    make = defaults_list._create_interpolation_map
    with (
        patch.object(OmegaConf, "load", staticmethod(parsed_once(OmegaConf.load))),
        patch.object(Metadata, "__deepcopy__", copied, create=True),
        patch.object(defaults_list, "_create_interpolation_map", only_for_entries(make)),
    ):
        yield
