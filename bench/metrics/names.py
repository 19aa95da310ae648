"""What the metrics in the rows are called in print, and which way is better: the only place that says so.

Rows name a metric `kind` or `kind[net]`: `fid[digits-cnn]`, `precision[random-conv]`, plain `fid` for the
ADM Inception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of metric: its printed name, its better direction and the decimals it is printed with."""

    label: str
    lower_is_better: bool
    decimals: int


KINDS = {  # in the order in which tables show them
    "fid": Kind("FID", True, 2),
    "sfid": Kind("sFID", True, 2),
    "is": Kind("IS", False, 1),
    "fd": Kind("FD", True, 2),
    "kid": Kind("KID", True, 4),
    "precision": Kind("Prec.", False, 3),
    "recall": Kind("Rec.", False, 3),
    "density": Kind("Dens.", False, 3),
    "coverage": Kind("Cov.", False, 3),
    "accuracy": Kind("Acc.", False, 3),
}
_NAMED = re.compile(r"^(?P<kind>[^\[]+)(?:\[(?P<net>.*)\])?$")


@dataclass(frozen=True)
class Measure:
    """A metric as the tables and plots need to know it."""

    key: str  # as in the rows
    kind: str
    net: str  # the feature space it is taken in; "" for the community's one

    @property
    def label(self) -> str:
        """`FID digits-cnn`: for a line of its own, without arrow."""
        return f"{self.short} {self.net}".strip()

    @property
    def short(self) -> str:
        """`FID`: for a column under a heading that names the net."""
        return KINDS[self.kind].label if self.kind in KINDS else self.kind

    @property
    def lower_is_better(self) -> bool | None:
        """None where nobody has said: then nothing is marked best."""
        return KINDS[self.kind].lower_is_better if self.kind in KINDS else None

    @property
    def is_distance(self) -> bool:
        """Whether it judges samples as a whole: what speedups and logarithmic axes are for."""
        return self.kind in ("fid", "sfid", "fd", "kid")

    @property
    def arrow(self) -> str:
        return {True: "↓", False: "↑", None: ""}[self.lower_is_better]

    @property
    def decimals(self) -> int:
        return KINDS[self.kind].decimals if self.kind in KINDS else 3


def measure(key: str) -> Measure:
    """The measure of a row's metric name; an unknown kind is kept under its own name, without direction."""
    match = _NAMED.match(key)
    assert match is not None, key
    return Measure(key, match["kind"], match["net"] or "")


def in_order(keys: Iterable[str]) -> list[Measure]:
    """Measures net by net in order of appearance, within a net in the order of `KINDS`.

    Kinds that classify (FID) come before feature spaces that nothing was trained for (FD), so the first
    measure is the headline.
    """
    measures = [measure(key) for key in dict.fromkeys(keys)]
    order = list(KINDS)
    rank = {item.key: order.index(item.kind) if item.kind in KINDS else len(order) for item in measures}
    nets: dict[str, int] = {}
    for item in measures:
        nets[item.net] = min(nets.get(item.net, len(order)), rank[item.key])
    appearance = {net: position for position, net in enumerate(nets)}
    return sorted(measures, key=lambda item: (nets[item.net], appearance[item.net], rank[item.key]))
