"""The benchmarks: fair before fast. That the contestants compute the same is tested here."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import timing  # noqa: E402
from floor import Floor, flops  # noqa: E402
from workloads import SCALES, WORKLOADS, Task  # noqa: E402

SMALL = {
    "S": WORKLOADS["S"],
    "default": WORKLOADS["default"],
    "gpt": replace(WORKLOADS["C"], batch=3, blocks=2, width=32, context=12),
}


def run(script, *words):
    command = [sys.executable, str(BENCHMARKS / script), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_quartiles_and_ratios_are_taken_round_by_round():
    assert timing.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert timing.quartiles([7.0]) == (7.0, 7.0, 7.0)
    # Everybody slowed down threefold in the second round: no ratio changes.
    assert timing.ratios([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]) == (2.0, 2.0, 2.0)


def test_a_table_is_markdown_of_equal_columns():
    lines = timing.table(("name", "n"), [("a", "1"), ("longer", "1000")]).splitlines()
    assert lines[0] == "| name   | n    |"
    assert lines[1] == "| :----- | ---: |"
    assert len({len(line) for line in lines}) == 1


def test_only_a_variant_far_behind_its_sister_is_dropped():
    def turns(*seconds):
        return [{"seconds": s} for s in seconds]

    answers = {"torch eager 1": turns(1, 1), "torch eager 2": turns(2, 2), "llmlab": turns(9, 9)}
    dropped = [name for name in answers if timing._hopeless(name, answers)]
    assert dropped == ["torch eager 2"]


@pytest.mark.slow
def test_a_contestant_that_cannot_start_says_why():
    spec = {"kind": "llmlab", "kernels": "none", "threads": 1}
    fields = {"name": "x", "kind": "gpt", "batch": 1, "blocks": 1, "heads": 1, "width": 4}
    spec["workload"] = fields | {"context": 4, "vocabulary": 5}
    with pytest.raises(timing.FailedError, match="kernels=none: unknown"):
        timing.Contestant("llmlab none", spec)


def test_workload_s_is_the_default_network_on_each_shipped_text():
    task = Task(WORKLOADS["S"])
    batches = list(task.batches(0))
    assert len(batches) == 25 + 53
    assert all(len(batch.inputs) == 1 for batch in batches)
    assert task.epoch_tokens == sum(batch.tokens for batch in batches)
    sample = list(Task(replace(WORKLOADS["S"], steps=6)).batches(0))
    assert [b.tokens for b in sample] == [b.tokens for b in batches[::13]]


def test_scaled_workloads_differ_in_one_size():
    for name, workloads in SCALES.items():
        sizes = [getattr(w, name) for w in workloads]
        assert sizes == sorted(set(sizes))
        assert len({replace(w, name="", **{name: 0}) for w in workloads}) == 1


@pytest.mark.parametrize("name", SMALL)
def test_the_floor_is_all_products_of_a_step(name):
    workload = replace(SMALL[name], steps=2)
    floor = Floor({"workload": vars(workload), "threads": 1})
    # Above one by what blocks of attention compute beyond the triangle.
    assert 1 <= floor.info["share"] < 1.1
    assert floor.turn(0)["tokens"] == sum(b.tokens for b in Task(workload).batches(0))
    kinds = {min(a.ndim, b.ndim) for step in floor._own.steps for a, b, _ in step}
    assert min(kinds) == 2
    a = np.ones((3, 4))
    assert flops([(a, a.T, np.empty((3, 3)))]) == 2 * 3 * 4 * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train.py", ("--workload", "C", "default", "--steps", "2", "--peers")),
        ("generate.py", ("--workload", "C", "--batch", "2", "--repeats", "1", "--peers")),
        ("kernels.py", ("--workload", "S")),
        ("startup.py", ("--only", "python -c pass")),
        ("serve.py", ("--clients", "1", "2", "--tokens", "4")),
    ],
)
def test_every_script_prints_a_table(script, words):
    done = run(script, "--rounds", "1", *words)
    assert done.returncode == 0, done.stderr
    assert "| :--" in done.stdout


@pytest.mark.slow
def test_guessing_is_measured_on_a_run(tmp_path):
    train = [
        "-m",
        "llmlab",
        "phase=tune",
        "experiment=tiny",
        "steps=2",
        "threads=1",
        "hydra.run.dir=run",
    ]
    subprocess.run([sys.executable, *train], cwd=tmp_path, check=True, capture_output=True)
    given = str(tmp_path / "run"), str(BENCHMARKS.parent / "data" / "chats.json")
    short = ["--rounds", "1", "--prompts", "2", "--tokens", "5", "--batch", "2"]
    done = run("speculation.py", *given, "--draft", given[0], *short)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| ngram ") == 2 and "found other tokens" not in done.stdout


@pytest.mark.parity
@pytest.mark.parametrize("name", SMALL)
def test_the_peer_has_our_gradients(name):
    torch = pytest.importorskip("torch")
    import peers
    from gradients import our_gradients

    task = Task(SMALL[name])
    batch = max(task.batches(0), key=lambda b: b.tokens)
    arrays, sizes = dict(task.params().items()), peers.sizes(task)
    true = peers.gradients(peers.network(sizes, arrays, torch.float64), batch)
    found = our_gradients(task, batch, "numpy", 1)
    ours = {key: peers.as_torch(key, grad) for key, grad in found.items()}
    theirs = peers.gradients(peers.network(sizes, arrays), batch)
    assert peers.difference(ours, true) < 1e-5
    assert peers.difference(theirs, true) < 1e-5
    wrong = ours | {"tokens.weight": 1.01 * ours["tokens.weight"]}
    assert peers.difference(wrong, true) > 5e-3


@pytest.mark.parity
@pytest.mark.parametrize("name", ["S", "gpt"])
def test_the_peer_decodes_our_tokens(name):
    pytest.importorskip("torch")
    from decoders import LlmlabDecoding, TorchDecoding

    spec = {"workload": vars(SMALL[name]), "batch": 3, "prompt": 4, "threads": 1}
    ours = LlmlabDecoding({**spec, "kernels": "numpy"})
    ours._limit.restore_original_limits()
    theirs = TorchDecoding({**spec, "compiled": False})
    assert ours.info["tokens"] == theirs.info["tokens"]
    assert len({token for row in ours.info["tokens"] for token in row}) > 5
    # The compiled one attends to the whole store behind a mask.
    places = theirs.places
    theirs.masks = (places <= places[:, None]).unsqueeze(1)
    assert theirs.decode().tolist() == ours.info["tokens"]
