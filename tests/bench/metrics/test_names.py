"""Names and directions of metrics."""

from __future__ import annotations

import pytest

from bench.metrics.names import in_order, metric


@pytest.mark.parametrize(
    "key, label, arrow",
    [
        ("fid", "FID", "↓"),
        ("is", "IS", "↑"),
        ("fd[random-conv]", "FD random-conv", "↓"),
        ("recall[digits-cnn]", "Rec. digits-cnn", "↑"),
        ("fd_infinity[pixels]", "FD-inf pixels", "↓"),
        ("fid_std", "std(FID)", ""),
        ("novelty[net]", "novelty net", ""),
    ],
)
def test_a_metric_is_named_with_its_net_and_its_direction(key: str, label: str, arrow: str) -> None:
    assert (metric(key).label, metric(key).arrow) == (label, arrow)


def test_nets_stay_together_and_trained_ones_come_first() -> None:
    keys = ["fd[pixels]", "recall[cnn]", "recall[pixels]", "fid[cnn]", "new[cnn]"]
    assert [item.key for item in in_order(keys)] == [
        "fid[cnn]",
        "recall[cnn]",
        "new[cnn]",
        "fd[pixels]",
        "recall[pixels]",
    ]
