"""The commands that are disturbed, each small, with what must come out of it."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.benchmark.checks.faults.cluster import STAND_IN, start_cluster
from bench.benchmark.checks.faults.process import Task, run_undisturbed
from bench.core.files import read_json, sha256

COUNT_OF_IMAGES = 24
TRAINING = {"steps": 6, "batch_size": 8, "checkpoint_every": 2, "evaluate_every": 3, "log_every": 1}
PROTOCOL = {"samples": 16, "sampler_flow": "euler[steps=2]", "feature_nets": ("random-conv",)}
CACHED = "repa[encoder=digits-teacher[cache=true]]"


def commands(folder: Path) -> list[Task]:
    """All of them; what they start from is made in the folder `start`."""
    empty, runs = folder / "start" / "empty", folder / "start" / "runs"
    images = folder / "start" / "images"
    empty.mkdir(parents=True)
    draw_images(images)
    train = Task("train", training("baseline"), run_of, empty)
    shutil.copytree(empty, runs)
    run_undisturbed(train, runs)
    sweep = ("--guidance-scale", "1.5", "2.0", "--samples", "32", "--device", "cpu")
    scoring = ("--reference", images, "--feature-nets", "random-conv", "--yes")
    storing = ("--size", "8", "--workers", "1", "--yes")
    return [
        train,
        Task("cache", training(CACHED), run_of, empty),
        Task("evaluate", lambda at: main("evaluate", only_run(at), *sweep), run_of, runs),
        Task(
            "score",
            lambda at: main(
                "evaluate", images, *scoring, "--output", at / "scores.json", "--copy", at / "copy.npz"
            ),
            lambda at: (scores(at), sha256(at / "copy.npz")),
            empty,
        ),
        Task(
            "prepare", lambda at: main("prepare", images, "--output", at / "store", *storing), shards, empty
        ),
        Task("report", lambda at: main("report", at), tables, runs),
        Task("submit", submit, run_of, empty),
    ]


def draw_images(folder: Path) -> None:
    """Two classes of small random images."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(COUNT_OF_IMAGES // 2):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:03d}.png")


def training(method: str) -> Callable[[Path], None]:
    """A run with checkpoints and evaluations."""
    import torch

    from bench.config import resolve
    from bench.launch.runner import Runner
    from bench.runs.folder import RunFolder

    spec = resolve.run_spec(method, "sit-pico", "digits", 0, training=TRAINING, protocol=PROTOCOL)

    def train(at: Path) -> None:
        if not RunFolder(at, spec).finished:
            Runner(spec, at, torch.device("cpu")).run()

    return train


def submit(at: Path) -> None:
    """The run of `train` as a job, and wait for it."""
    from bench.launch import display

    display.REFRESH = 0.2
    cluster = start_cluster(at / STAND_IN / "queue", at / "results" / "runs" / "jobs")
    steps = [word for key, value in TRAINING.items() for word in (f"--{key.replace('_', '-')}", value)]
    scored = ("--samples", 16, "--sampler-flow", "euler[steps=2]", "--feature-nets", "random-conv")
    run = ("--method", "baseline", "--backbone", "sit-pico", *steps, *scored, "--device", "cpu")
    try:
        main("run", *run, "--results", at / "results", "--launcher", "slurm", "--hours", "1")
    finally:
        os.kill(cluster, signal.SIGTERM)
        os.waitpid(cluster, 0)


def main(module: str, *arguments: object) -> None:
    """`python -m bench.MODULE ARGUMENTS`."""
    sys.argv = [f"bench.{module}", *map(str, arguments)]
    importlib.import_module(f"bench.{module}").main()


def only_run(at: Path) -> Path:
    """The folder of the only run."""
    return next(at.rglob("spec.json")).parent


def run_of(at: Path) -> Any:
    """Weights, losses and metrics of the only run."""
    from bench.runs.record import RunRecord

    record = RunRecord(only_run(at))
    losses = {row.step: row.loss for row in record.training()}
    metrics = {(row.step, row.protocol): row.metrics for row in record.evaluations()}
    return losses, metrics, sha256(record.folder / "ema.safetensors"), record.status().state


def scores(at: Path) -> Any:
    """What a scoring has written."""
    return read_json(at / "scores.json").get("metrics")


def tables(at: Path) -> Any:
    """The tables of a report, by name."""
    return {str(path.relative_to(at)): sha256(path) for path in at.rglob("*.csv")}


def shards(at: Path) -> Any:
    """Checksums of everything in the store but its manifest, which says when it was made."""
    (manifest,) = at.rglob("manifest.json")
    return {path.name: sha256(path) for path in manifest.parent.iterdir() if path != manifest}
