"""The study of the GPU campaign: images, teacher and judges, and runs that are cut into pieces."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch

from bench.benchmark.gpu_sizes import Sizes
from bench.config import resolve
from bench.core import machine
from bench.data import datasets
from bench.launch.runner import Runner
from bench.launch.stopping import AGAIN, STOP, Stopped
from bench.nets import local
from bench.runs.record import RunRecord

PIECE_SECONDS = 7 * 60  # after which a run is interrupted, and saves


def prepare_images(source: str, device: torch.device) -> dict[str, Any]:
    """The store of CIFAR-10, where it is looked for. Raises UserError as bench.prepare."""
    from bench.data.preparation import Recipe, prepare

    dataset = datasets.get("cifar10")
    assert dataset.folder is not None
    if not dataset.available:
        prepare(source, dataset.folder, Recipe(size=dataset.image_size), yes=True)
    return {"store": str(dataset.folder)}


def train_network(name: str, device: torch.device) -> dict[str, Any]:
    """A teacher or judge, trained on the card unless it is there."""
    path = local.weight_file(name)
    if path is not None and not path.is_file():
        local.train(name, path, device)
    return {"file": path.name if path else ""}


def train_run(sizes: Sizes, method: str, root: Path, device: torch.device) -> dict[str, Any] | None:
    """A run of the study, for a piece's time; None if it goes on. Raises UserError as a run does."""
    run = resolve.run_spec(
        method,
        sizes.study_backbone,
        sizes.study_data,
        0,
        native_precision=machine.native_precision(device),
        training=dict(sizes.study_training),
        protocol=dict(sizes.study_protocol),
    )
    if not RunRecord(root / run.run_id).status().finished:
        signal.alarm(PIECE_SECONDS)
        try:
            Runner(run, root, device).run({signal.SIGINT: STOP, signal.SIGTERM: STOP, signal.SIGALRM: AGAIN})
        except Stopped as stopped:
            if stopped.request == AGAIN:
                return None
            raise
        finally:
            signal.alarm(0)
    rows = RunRecord(root / run.run_id).evaluations()
    return {
        "run": run.run_id,
        "evaluations": [
            {"step": row.step, "seconds": row.seconds, "metrics": row.metrics, "leaky": list(row.leaky)}
            for row in rows
        ],
    }
