"""Checks of planned runs: a dry run refuses whatever a run would refuse at its first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.files import refuse_unwritable
from bench.core.parallel import Parallelism
from bench.data import datasets
from bench.data.datasets import Dataset
from bench.data.shards import TRAIN
from bench.runs import networks


def refuse_unusable(specs: Sequence[RunSpec], root: Path, parallelism: Parallelism) -> None:
    """Raises UserError for a plan that cannot be run, or whose results cannot be written."""
    refuse_unwritable(root, "choose another --results")
    for spec in {(spec.method, spec.backbone, spec.data): spec for spec in specs}.values():  # of any seed
        if datasets.get(spec.data).available:  # else nothing is known of its images
            networks.refuse_images(spec)
    for spec in specs:
        parallelism.micro_batches(spec.training.batch_size)  # raises
        _refuse_sizes(spec)


def _records(dataset: Dataset) -> int | None:
    """Number of training records of a data set; None if its store does not exist and the preset has none."""
    if dataset.manifest:
        return dataset.manifest.records[TRAIN]
    return (dataset.preset.get("store") or dataset.preset).get("records")


def _refuse_sizes(spec: RunSpec) -> None:
    """Raises UserError for patches or batches that do not fit the data set."""
    dataset, training = datasets.get(spec.data), spec.training
    patch, size = resolve.architecture(spec.backbone).patch, dataset.shape.size
    if size % patch:
        raise UserError(f"{spec.backbone} on {dataset}: patches of {patch} do not divide {size} x {size}.")
    records = _records(dataset)
    if training.steps and records is not None and training.batch_size > records:
        raise UserError(
            f"batch size {training.batch_size} is larger than the data set {dataset} with its {records} "
            "training records: choose a smaller --batch-size."
        )
