"""What all tests share."""

import copy
import gc
import os
from pathlib import Path

import pytest
from networks import rustgpt_stack
from omegaconf import OmegaConf


@pytest.fixture
def rustgpt():
    """RustGPT's network at its own vocabulary."""
    return rustgpt_stack()


def pytest_configure(config):
    """Let the programs that tests start share what was compiled, wherever that is switched off."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = str(config.cache.mkdir("compiled"))


def pytest_collection_finish(session):
    """Look for garbage seldom, and not among the thousands of collected tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def yaml_parsed_once():
    """Parse a YAML file once a process: each start of the command line reads the same twenty."""
    load, parsed = OmegaConf.load, {}

    def load_once(file_):
        name = file_ if isinstance(file_, str | Path) else getattr(file_, "name", None)
        if not isinstance(name, str | Path) or not Path(name).is_file():
            return load(file_)
        status = Path(name).stat()
        key = (str(name), status.st_mtime_ns, status.st_size, status.st_ino)
        if key not in parsed:
            parsed[key] = load(file_)
        return copy.deepcopy(parsed[key])

    OmegaConf.load = staticmethod(load_once)
    yield
    OmegaConf.load = staticmethod(load)
