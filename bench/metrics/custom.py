"""Metrics in Python files of the user's: a number computed from features of samples and reference images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, dataclass_transform

from torch import Tensor

from bench.core import grammar, plugin
from bench.core.errors import UserError
from bench.metrics.names import CUSTOM, METRICS, MetricInfo


@dataclass_transform(frozen_default=True)
class CustomMetric(ABC):
    """Base class of a metric in a Python file, `--metrics path/to/my_metric.py[option=value]`.

    It is computed once per feature network and recorded as `my_metric[NET]`, after the name of the file.
    Subclasses declare options as annotated fields with defaults.
    """

    label: ClassVar[str] = ""  # in tables; "": the name of the file
    lower_is_better: ClassVar[bool | None] = None  # None: nothing is marked best
    decimals: ClassVar[int] = 3  # in tables
    is_distance: ClassVar[bool] = False  # between distributions: speedups and logarithmic axes make sense

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    @abstractmethod
    def __call__(self, samples: Tensor, reference: Tensor) -> float:
        """The metric of features [N, D] of the samples and [M, D] of the reference images, float32."""


def load(texts: Iterable[str]) -> dict[str, CustomMetric]:
    """The metrics of files, by the name under which they are recorded; tables then know how to show them.

    Raises:
        UserError: for a file that defines no metric, and for a name that is taken.
    """
    found: dict[str, CustomMetric] = {}
    for text in texts:
        metric = plugin.configured(text, CustomMetric, "metric")
        name = Path(grammar.split(text)[0]).stem
        if name in found or name in METRICS:
            raise UserError(f"there are two metrics of the name {name}: rename the file of {text}.")
        CUSTOM[name] = MetricInfo(
            metric.label or name, metric.lower_is_better, metric.decimals, is_distance=metric.is_distance
        )
        found[name] = metric
    return found
