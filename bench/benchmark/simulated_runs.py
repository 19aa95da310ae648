"""Simulated results folders with known statistics, for tests and the benchmark of the report.

Every method follows the baseline's power law, but `speed` times sooner.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from bench.config.spec import Protocol, Training

PROTOCOL = Protocol.model_validate(
    {
        "data": "digits",
        "reference": "600 held-out digits",
        "feature_nets": ["digits-cnn", "random-conv"],
        "samples": 1000,
        "labels": "balanced",
    }
)
RECORDS = 12_800  # images of the training set
SPEEDS = {"baseline": 1.0, "repa": 2.0, "vrpo": 3.0}  # true speedups in steps
STEP_SECONDS = {"baseline": 0.1, "repa": 0.125, "vrpo": 0.15}


def frechet(step: float, speed: float) -> float:
    """The formula of all simulated curves."""
    return 50.0 * (speed * step) ** -0.7


def write_run(
    root: Path,
    method: str = "baseline",
    backbone: str = "sit-ti/2",
    seed: int = 0,
    *,
    speed: float = 1.0,
    step_seconds: float = 0.1,
    steps: int = 1000,
    evaluations: int = 10,
    noise: float = 0.02,
    state: str = "finished",
    protocol: Protocol = PROTOCOL,
    parameters: int = 500_000,
) -> Path:
    """One run folder; `noise` is the standard deviation over seeds of the logarithm of a metric."""
    folder = root / f"{method}-{backbone}-seed{seed}".replace("/", "p").replace("[", "_").replace("]", "")
    (folder / "samples").mkdir(parents=True)
    half = max(1, steps // 2)
    spec = {
        "method": method,
        "backbone": backbone,
        "data": "digits",
        "seed": seed,
        "process": "flow",
        "training": Training.model_validate(
            {"steps": steps, "log_every": half, "evaluate_every": -(-steps // evaluations)}
        ).model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json"),
    }
    env = {
        "device": "cpu",
        "hardware": "Simulated CPU (2 threads)",
        "parameters": {"backbone": parameters, "method": 0},
        "records": RECORDS,
        "teachers": [] if method == "baseline" else ["digits-teacher"],
        "flops_per_step": 1e9,
    }
    done = steps if state == "finished" else half
    status = {
        "state": state,
        "step": done,
        "steps": steps,
        "message": "loss is NaN" if state == "failed" else "",
    }
    for name, content in (("spec", spec), ("env", env), ("status", status)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    rng = np.random.default_rng([seed, *method.encode()])
    rows = []
    for step in Training.model_validate(spec["training"]).evaluation_steps:
        if step > done:
            break
        value = frechet(step, speed) * np.exp(noise * rng.standard_normal())
        metrics = {
            "fid[digits-cnn]": value,
            "precision[digits-cnn]": float(np.exp(-value / 10)),
            "recall[digits-cnn]": 0.8 - 0.01 * value,
            "fd[random-conv]": value / 40 * np.exp(noise * rng.standard_normal()),
        }
        row = {"step": step, "seconds": step * step_seconds, "flops": step * 1e9, "samples": protocol.samples}
        row |= {
            "protocol": protocol.hash,
            "guidance_scale": 1.0,
            "weights": "ema",
            "leaky": [],
            "metrics": metrics,
        }
        rows.append(row)
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logs = {"reward/perceptual": 0.5, "reward/semantic": 0.7} if method.startswith("vrpo") else {}
    trained = [
        {"step": step, "logs": {name: value + step / steps for name, value in logs.items()}}
        for step in sorted({1, half, done})
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trained))
    Image.fromarray(sample_grid(rng)).save(folder / f"samples/step-{done:08d}.png")
    Image.fromarray(sample_grid(rng)[:20]).save(folder / "samples/real.png")
    return folder


def sample_grid(rng: np.random.Generator, size: int = 16) -> np.ndarray:
    """4 rows of 10 images [H, W, 3] with margins of 2 pixels, as runs save them."""
    grid = np.full((4 * (size + 2) + 2, 10 * (size + 2) + 2, 3), 255, dtype=np.uint8)
    for row in range(4):
        for column in range(10):
            top, left = row * (size + 2) + 2, column * (size + 2) + 2
            grid[top : top + size, left : left + size] = rng.integers(0, 255, (size, size, 1))
    return grid
