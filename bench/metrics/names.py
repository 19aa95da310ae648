"""Table of metrics: names in rows and in print, better direction, decimals; for scorer and report.

In rows a metric is called `NAME[NET]`, with its feature network: `fid[digits-cnn]`, `precision[random-conv]`;
plain `fid` is that of ADM's Inception, which the literature reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """Properties of a metric, for all feature networks."""

    label: str
    lower_is_better: bool | None  # None: neither is better, nothing is marked best
    decimals: int
    definition: str = ""
    is_distance: bool = False  # between distributions: speedups and logarithmic axes make sense


_FRECHET = "Frechet distance between Gaussians fitted to the pooled features of samples and reference"
_INFINITY = "extrapolated to infinitely many samples (Chong and Forsyth 2020)"
_STD = "its standard deviation over bootstrap resamples of the samples"
METRICS = {  # in the order of columns
    "fid": MetricInfo("FID", True, 2, f"{_FRECHET}; the net was trained to classify", is_distance=True),
    "fid_infinity": MetricInfo("FID-inf", True, 2, f"`fid` {_INFINITY}", is_distance=True),
    "fid_std": MetricInfo("std(FID)", None, 3, f"`fid`: {_STD}"),
    "sfid": MetricInfo("sFID", True, 2, "the same distance over spatial features", is_distance=True),
    "is": MetricInfo("IS", False, 1, "Inception score, mean over splits of 5,000 samples as in ADM"),
    "fd": MetricInfo("FD", True, 2, f"{_FRECHET}; any other net", is_distance=True),
    "fd_infinity": MetricInfo("FD-inf", True, 2, f"`fd` {_INFINITY}", is_distance=True),
    "fd_std": MetricInfo("std(FD)", None, 3, f"`fd`: {_STD}"),
    "kid": MetricInfo("KID", True, 4, "kernel distance: unbiased MMD^2, cubic kernel", is_distance=True),
    "precision": MetricInfo("Prec.", False, 3, "fraction of samples in a k-neighbour ball of the reference"),
    "recall": MetricInfo("Rec.", False, 3, "fraction of the reference in a k-neighbour ball of the samples"),
    "accuracy": MetricInfo("Acc.", False, 3, "fraction of samples classified as the requested class"),
}
CUSTOM: dict[str, MetricInfo] = {}  # metrics of files, once they are loaded: custom.py
_UNLISTED_DECIMALS = 3
_KEY = re.compile(r"^(?P<name>[^\[]+)(?:\[(?P<net>.*)\])?$")


def key(name: str, net: str) -> str:
    """The key in a row of a metric computed with a feature network, `NAME[NET]`.

    Raises:
        KeyError: for a metric that is neither in the table nor loaded from a file.
    """
    _ = METRICS.get(name) or CUSTOM[name]
    return name if net == "inception" else f"{name}[{net}]"


@dataclass(frozen=True)
class Metric:
    """A metric of a row, as tables and plots show it."""

    key: str  # as in the row
    name: str
    net: str  # feature net; "" for the Inception of ADM

    @property
    def info(self) -> MetricInfo:
        """From the table or a loaded file; any other metric has its own name as label, and no direction."""
        known = METRICS.get(self.name) or CUSTOM.get(self.name)
        return known or MetricInfo(self.name, None, _UNLISTED_DECIMALS)

    @property
    def label(self) -> str:
        """`FID digits-cnn`: for a line of its own, without arrow."""
        return f"{self.short} {self.net}".strip()

    @property
    def short(self) -> str:
        """`FID`: for a column under a heading that names the net."""
        return self.info.label

    @property
    def lower_is_better(self) -> bool | None:
        """None if neither direction is: then nothing is marked best."""
        return self.info.lower_is_better

    @property
    def is_distance(self) -> bool:
        """Whether speedups and logarithmic axes make sense."""
        return self.info.is_distance

    @property
    def arrow(self) -> str:
        return {True: "↓", False: "↑", None: ""}[self.lower_is_better]

    @property
    def decimals(self) -> int:
        return self.info.decimals


def metric(key: str) -> Metric:
    """The metric of a row's key; one that is not in the table is kept under its own name."""
    match = _KEY.match(key)
    assert match is not None, key
    return Metric(key, match["name"], match["net"] or "")


def in_order(keys: Iterable[str]) -> list[Metric]:
    """Metrics net by net in order of appearance, within a net in the order of `METRICS`.

    Nets that were trained to classify (FID) come before others (FD), so the first metric is the headline.
    """
    metrics = [metric(key) for key in dict.fromkeys(keys)]
    order = list(METRICS)
    rank = {item.key: order.index(item.name) if item.name in METRICS else len(order) for item in metrics}
    nets: dict[str, int] = {}
    for item in metrics:
        nets[item.net] = min(nets.get(item.net, len(order)), rank[item.key])
    appearance = {net: position for position, net in enumerate(nets)}
    return sorted(metrics, key=lambda item: (nets[item.net], appearance[item.net], rank[item.key]))
