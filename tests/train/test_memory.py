"""What memory is left: the machine's, or less where a control group has a limit."""

import os

import pytest

from llmlab import build, resources
from llmlab.cli.start import compose
from llmlab.errors import ResourceError
from llmlab.layers import build_stack
from llmlab.optim import OPTIMIZERS
from llmlab.params import Layout
from llmlab.train.memory import WORKER, available_memory, training_memory

MIB = 2**20
TWO, ONE = "sys/fs/cgroup", "sys/fs/cgroup/memory"


def group(limit, used, cached, old=False):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    names = names if old else ("memory.max", "memory.current", "inactive_file")
    limit = limit if isinstance(limit, str) else limit * MIB
    values = (limit, used * MIB, f"anon 5\n{names[2]} {cached * MIB}\n")
    return dict(zip((*names[:2], "memory.stat"), map(str, values), strict=True))


@pytest.mark.parametrize(
    ("line", "groups", "left"),
    [
        (None, {}, 900),
        ("0::/", {}, 900),
        ("0::/", {TWO: group("max", 100, 0)}, 900),
        ("0::/", {TWO: group(500, 300, 50)}, 250),
        ("0::/", {TWO: group(5000, 300, 50)}, 900),
        ("0::/", {TWO: group(500, 600, 0)}, 0),
        # A job's own group, and one above it with a lower limit.
        ("0::/jobs/7", {f"{TWO}/jobs/7": group(500, 100, 0)}, 400),
        (
            "0::/jobs/7",
            {f"{TWO}/jobs/7": group(500, 100, 0), f"{TWO}/jobs": group(600, 400, 0)},
            200,
        ),
        ("4:cpu,memory:/", {ONE: group(500, 300, 50, old=True)}, 250),
        # In a container the path is the host's.
        ("4:memory:/docker/ab", {ONE: group(500, 300, 0, old=True)}, 200),
        ("4:cpu:/", {ONE: group(500, 300, 0, old=True)}, 900),
    ],
)
def test_the_lowest_limit_counts(tmp_path, line, groups, left):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 921600 kB\n")
    if line is not None:
        (tmp_path / "proc/self/cgroup").write_text(f"11:pids:/x\n{line}\n")
    for path, files in groups.items():
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / path / name).write_text(content + "\n")
    assert available_memory(tmp_path) == left * MIB


def test_a_system_that_tells_nothing(tmp_path, monkeypatch):
    assert available_memory(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.delattr("os.sysconf")
    assert available_memory(tmp_path) is None


def test_what_does_not_fit_is_refused_before_anything_is_made(monkeypatch):
    def made(*_):
        raise AssertionError("parameters were made")

    monkeypatch.setattr(Layout, "init", made)
    monkeypatch.setattr(resources, "available_memory", lambda: 2**40)
    config = compose("model.embedding_dim=65536", "model.num_blocks=100", "model.num_heads=1")
    with pytest.raises(ResourceError, match=r"a training step needs about [\d,.]+ GiB") as error:
        build.new_model(config, build.new_tokenizer(config))
    assert "activations" in str(error.value) and "1,024.0 GiB are free" in str(error.value)
    monkeypatch.setattr(resources, "available_memory", lambda: 2**60)
    with pytest.raises(AssertionError, match="were made"):
        build.new_model(config, build.new_tokenizer(config))


def test_each_worker_but_the_first_is_a_process():
    layers = {"tokens": "token_embedding", "output": "output_projection"}
    stack = build_stack(layers, vocab_size=8, embedding_dim=4, max_seq_len=4)
    layout, rule = Layout(stack), OPTIMIZERS.build("adam", "optimizer")
    one, four = (training_memory(stack, layout, rule, batch=8, time=4, threads=n) for n in (1, 4))
    assert (one.workers, four.workers) == (0, 3 * WORKER)
    assert four.total == sum(vars(four).values()) > one.total + 3 * WORKER
