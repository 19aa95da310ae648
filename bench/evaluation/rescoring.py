"""Score samples again: are the metrics that somebody reports those of the samples?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.progress import progress_bar
from bench.data import datasets
from bench.data.image_files import open_images
from bench.evaluation import sampling
from bench.evaluation.reference import BATCH_SIZE, reference_of_data
from bench.evaluation.scorer import Scorer
from bench.metrics.names import metric
from bench.nets.metric_nets import feature_nets, refuse_others

TOLERANCE = 1e-3  # relative: kernels of other machines round features otherwise
SHARES = 2  # images that may fall to the other side of a threshold, likewise


class Comparison(NamedTuple):
    """A metric as it was reported and as it was found."""

    key: str
    said: float
    found: float
    agrees: bool


def verify(
    spec: RunSpec, reported: dict[str, float], samples: Path, device: torch.device
) -> list[Comparison]:
    """Score `samples` by the protocol of a run, and compare with the metrics that are reported for it.

    `samples` is an .npz, folder or zip, in the order of their numbers. Raises UserError where the run's data
    or metric nets are others on this machine, or the number of samples differs.
    """
    images, protocol = open_images(samples), spec.protocol
    if images.count != protocol.samples:
        raise UserError(
            f"{samples} has {images.count:,} images, the run was scored with {protocol.samples:,}."
        )
    dataset = datasets.get(spec.data)
    if dataset.identity != protocol.data:
        raise UserError(
            f"{spec.data} is {dataset.identity} on this machine, the run was scored on {protocol.data}."
        )
    refuse_others(protocol.checksums)
    data, nets = dataset.open(), feature_nets(protocol.feature_nets, device)
    scorer = Scorer(nets, reference_of_data(spec.data, data, nets), neighbours=protocol.neighbours)
    start = 0
    with progress_bar(images.count, 0, "samples", "img") as bar:
        for batch in images.batches(BATCH_SIZE):
            index = torch.arange(start, start + len(batch))
            labels = sampling.requested_labels(index, protocol.labels, data.classes, spec.seed)
            scorer.update(batch, labels, index)
            start += len(batch)
            bar.update(len(batch))
    return list(_compared(reported, scorer.results(), images.count))


def _compared(said: dict[str, float], found: dict[str, float], count: int) -> Iterator[Comparison]:
    for key, value in said.items():
        allowed = TOLERANCE * abs(value)
        if metric(key).name in ("precision", "recall", "accuracy"):
            allowed = max(allowed, SHARES / count)
        result = found.get(key, float("nan"))
        yield Comparison(key, value, result, abs(result - value) <= allowed)
