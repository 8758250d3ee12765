"""What all tests share."""

import gc
import os
import sys

import pytest
from cheap_starts import cheap_starts
from every_day import left_to_slow
from networks import rustgpt_stack


@pytest.fixture
def rustgpt():
    """RustGPT's network at its own vocabulary."""
    return rustgpt_stack()


def pytest_configure(config):
    """Keep what was compiled, also where that is switched off: workers and programs share it."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        sys.dont_write_bytecode = False


class Backwards(pytest.Dir):
    """A folder whose files are collected from the last to the first."""

    def collect(self):
        return reversed(list(super().collect()))


def pytest_collect_directory(path, parent):
    """Let every other worker begin at the end, so that each finds half of the files compiled."""
    worker = getattr(parent.config, "workerinput", {}).get("workerid", "gw0")
    return Backwards.from_parent(parent, path=path) if int(worker[2:]) % 2 else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Give all workers one order, and leave what `every_day` multiplies too often to `slow`."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path)
    for item in left_to_slow(items):
        item.add_marker("slow")


def pytest_collection_finish(session):
    """Look for garbage seldom, and not among the thousands of collected tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def starts_are_cheap():
    """Spare each start of the command line what the one before has done already."""
    with cheap_starts():
        yield
