"""All metrics of a set of samples in one pass: images in, batch by batch, numbers out.

Samples are kept only as features. For a net NET the results are
    fid[NET] or fd[NET]        Frechet distance (fid where the net was trained to classify)
    precision[NET] recall[NET] of the k-neighbour balls
    accuracy[NET]              share of samples whose predicted class is the requested one
and plain  fid  sfid  is  precision  recall  for the Inception of the ADM suite.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.evaluation.accumulator import FeatureAccumulator, extract
from bench.evaluation.reference import Reference, reference_of
from bench.metrics import names
from bench.metrics.custom import CustomMetric
from bench.metrics.frechet import frechet_distance, self_test
from bench.metrics.kid import kernel_distance
from bench.metrics.precision_recall import Arithmetic, precision_recall
from bench.metrics.uncertainty import bootstrap_spread, extrapolated
from bench.nets.base import Activations, FeatureNet


@dataclass(frozen=True)
class MetricOptions:
    """Options of metrics, and additional metrics."""

    neighbours: int = 3  # k of precision and recall
    arithmetic: Arithmetic = "exact"  # of precision and recall
    kid: bool = False  # kernel distance: kid[NET]
    fid_infinity: bool = False  # Frechet distance extrapolated to infinitely many samples: fid_infinity[NET]
    bootstrap: int = 0  # bootstrap resamples for the standard deviation of the distance: fid_std[NET]
    custom: Mapping[str, CustomMetric] = field(default_factory=dict)  # from files, by name


class Scorer:
    """Compares samples with a reference in the spaces of several feature networks."""

    def __init__(
        self,
        nets: Sequence[FeatureNet],
        reference: Tensor | Mapping[str, Reference],
        *,
        neighbours: int = 3,
        options: MetricOptions | None = None,
    ) -> None:
        """`reference`: images [M, C, H, W] uint8, or their statistics by name of the network.

        Raises:
            UserError: if the linear algebra of this machine is wrong.
        """
        self_test()
        self.nets = tuple(nets)
        self.options = options or MetricOptions(neighbours=neighbours)
        if isinstance(reference, Tensor):
            reference = reference_of(self.nets, [reference])
        self.reference = dict(reference)
        self.reset()

    def reset(self) -> None:
        """Remove all samples; the reference is kept."""
        self.samples = {net.name: FeatureAccumulator() for net in self.nets}
        self._next = 0

    def update(self, images: Tensor, labels: Tensor | None = None, index: Tensor | None = None) -> None:
        """Add samples [B, C, H, W] uint8 with their requested classes [B] and numbers [B].

        Without numbers, counting continues from the last sample.
        """
        self.add([extract(net, images) for net in self.nets], labels, index)

    def add(
        self, activations: Sequence[Activations], labels: Tensor | None = None, index: Tensor | None = None
    ) -> None:
        """`update` with activations, one for each network."""
        if index is None:
            index = torch.arange(self._next, self._next + len(activations[0].pooled))
        self._next = int(index.max()) + 1
        for net, seen in zip(self.nets, activations, strict=True):
            self.samples[net.name].update(seen, labels, index)

    def gather(self) -> None:
        """Gather the samples of all processes on every process."""
        from torch import distributed

        everywhere: list[dict[str, FeatureAccumulator]] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(everywhere, self.samples)
        self.samples = everywhere[0]
        for samples in everywhere[1:]:
            for name, part in samples.items():
                self.samples[name].merge(part)

    def results(self) -> dict[str, float]:
        """All metrics by name. Warns if there are fewer samples than feature dimensions.

        Raises:
            UserError: if a metric cannot be computed: too few images, or features of another network.
        """
        results: dict[str, float] = {}
        for net in self.nets:
            samples, reference = self.samples[net.name], self.reference[net.name]
            _warn_if_few(net.name, samples.count, len(samples.gaussian.mean))
            metrics = compute_metrics(samples, reference, self.options, "fid" if net.classifies else "fd")
            results |= {names.key(name, net.name): value for name, value in metrics.items()}
        broken = [name for name, value in results.items() if not math.isfinite(value)]
        if broken:
            raise UserError(f"{', '.join(broken)} came out as NaN or infinity: nothing is recorded.")
        return results


def compute_metrics(
    samples: FeatureAccumulator, reference: Reference, options: MetricOptions, distance: str
) -> dict[str, float]:
    """The metrics of one network; `distance` is the name of its Frechet distance."""
    results = {distance: frechet_distance(samples.gaussian, reference.gaussian)}
    if samples.spatial is not None and reference.spatial is not None:
        results["sfid"] = frechet_distance(samples.spatial.gaussian, reference.spatial)
    if samples.inception.sums:
        results["is"] = samples.inception.score
    features = samples.features
    if reference.features is not None:
        known = reference.features.to(features.device)
        shares = precision_recall(features, known, options.neighbours, options.arithmetic)
        results["precision"], results["recall"] = shares
        if options.kid:
            results["kid"] = kernel_distance(features, known)
        results |= {name: float(metric(features, known)) for name, metric in options.custom.items()}
    if samples.labelled:
        results["accuracy"] = samples.correct / samples.labelled
    if options.fid_infinity:
        results[f"{distance}_infinity"] = extrapolated(features, reference.gaussian)
    if options.bootstrap:
        results[f"{distance}_std"] = bootstrap_spread(features, reference.gaussian, options.bootstrap)
    return results


def _warn_if_few(net: str, count: int, dimension: int) -> None:
    if count < dimension:
        warnings.warn(
            f"{count} samples for the {dimension} dimensions of {net}: its Frechet distance is far too high "
            "and comparable at this sample count only.",
            stacklevel=3,
        )
