"""Real trackers, offline: a run is killed, resumed, and nothing is there twice or missing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec

import pytest
from event_files import shown

# What the packages themselves warn of is their own affair.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PACKAGES = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
RUN = [
    *("phase=pretrain", "experiment=tiny", "threads=1", "save_every=5", "hydra.run.dir=run"),
    *("callbacks.watch.every=4", "callbacks.samples.every=10"),
    *("callbacks.samples.prompts=[What causes rain?]",),
]
MORE = {"wandb": ["tracker.mode=offline"], "mlflow": ["tracker.uri=sqlite:///mlflow.db"]}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_killed_and_resumed_run_has_each_value_once(name, tmp_path):
    if find_spec(PACKAGES[name]) is None or (name == "wandb" and find_spec("PIL") is None):
        pytest.skip(f"needs the package {PACKAGES[name]}: pip install 'llmlab[{name}]'")
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_SILENT": "true"}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-m", "llmlab"]
    typed = [*RUN, f"tracker={name}", *MORE.get(name, [])]
    with (tmp_path / "out").open("w") as out:
        options["stdout"] = out
        first = subprocess.Popen([*command, *typed, "steps=100000"], **options)
        rows = tmp_path / "run" / "metrics.jsonl"
        end = time.monotonic() + 120
        while time.monotonic() < end and first.poll() is None:
            if rows.exists() and rows.read_bytes().count(b"\n") > 60:
                break
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
        done = rows.read_bytes().count(b"\n")
        resume = [*command, "resume=run", f"steps={done + 40}"]
        code = subprocess.run(resume, **options, timeout=300).returncode
    said = (tmp_path / "out").read_text()
    assert done > 60 and code == 0, said
    wanted = {row["step"]: row["loss"] for row in map(json.loads, rows.read_text().splitlines())}
    assert list(wanted) == list(range(1, done + 41))
    os.environ |= {"TRACKIO_DIR": str(tmp_path / "trackio")}
    values = list(globals()[f"values_of_{name}"](tmp_path))
    count = Counter((step, key) for step, key, _ in values)
    assert max(count.values()) == 1, [key for key, number in count.items() if number > 1][:5]
    losses = {step: value for step, key, value in values if key == "loss"}
    assert losses == pytest.approx(wanted, rel=1e-5)
    keys = {key for _, key, _ in values}
    assert "watch/stream/output" in keys
    assert any(key.startswith(("watch/update_ratio", "images")) for key in keys)
    assert any("samples" in key for key in keys)


def values_of_tensorboard(folder):
    for (step, tag), value in shown(folder / "run" / "tensorboard").items():
        yield step, tag, value


def values_of_trackio(folder):
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("llmlab")
    for row in SQLiteStorage.get_logs("llmlab", run):
        step = row.pop("step")
        row.pop("timestamp", None)
        yield from ((step, key, value) for key, value in row.items())


def values_of_mlflow(folder):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    where = client.get_experiment_by_name("llmlab").experiment_id
    (run,) = client.search_runs([where])
    assert run.info.status == "FINISHED" and run.data.params["phase"] == "pretrain"
    for key in run.data.metrics:
        for each in client.get_metric_history(run.info.run_id, key):
            yield each.step, key, each.value
    for part in ("images", "samples"):  # the artifacts lie beside the database
        for path in folder.glob(f"mlruns/**/{part}/*"):
            yield 0, f"{part}/{path.name}", 0.0


def values_of_wandb(folder):
    """Yield what is in the files that `wandb sync` sends."""
    from wandb.proto import wandb_internal_pb2

    from llmlab.train.trackers.wandb import log_records

    runs = set()
    for path in sorted((folder / "run").rglob("*.wandb")):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                runs.add(record.run.run_id)
            for item in record.history.item:
                key = item.key or ".".join(item.nested_key)
                if not key.startswith("_"):
                    value = json.loads(item.value_json)
                    yield record.history.step.num, key, value
    assert len(runs) == 1
