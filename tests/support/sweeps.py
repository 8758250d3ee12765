"""A sweep's folder with results that nobody has trained for."""

import json
import random


def write_sweep(folder, arms, seeds=3, question=None, steps=40):
    """Write jobs of `arms`, a list of {key: value}; their loss is the arm's number, and noise."""
    keys = sorted({key for arm in arms for key in arm})
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [f"{key}={','.join(dict.fromkeys(str(arm[key]) for arm in arms))}" for key in keys]
    record = {"overrides": overrides, "varying": keys, "changed": {}}
    (folder / "sweep.json").write_text(json.dumps(record | (question or {})))
    for number, arm in enumerate(arms):
        for seed in range(seeds):
            task = [*(f"{key}={value}" for key, value in arm.items()), f"seed={seed}"]
            job = folder / ("-".join(task).replace("=", "-"))
            job.mkdir()
            noise = random.Random(f"{number} {seed}").gauss(0, 0.02)
            end = 2 + 0.3 * number + noise
            rows = [
                {"step": step, "tokens": 100 * step, "loss": end + 4 / step}
                | ({"val_loss": end + 5 / step} if step % 10 == 0 else {})
                for step in range(1, steps + 1)
            ]
            (job / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            values = {"loss": end, "val_loss": end + 5 / steps, "steps": steps, "seconds": 2.0}
            values |= {"tokens": 100 * steps, "parameters": 1000 + number, "seed": seed}
            about = {"status": "finished", "overrides": {}, "task": task}
            (job / "result.json").write_text(json.dumps(about | values))
    return folder
