"""Committed reports: the hash is that of their suite today, or they say that it is of an earlier version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.config import suites
from bench.config.options import Comparison
from bench.data import datasets
from bench.run import Options, plan

ROOT = Path(__file__).parents[2]
REPORTS = sorted((ROOT / "results").rglob("report.md"))


@pytest.mark.parametrize("page", REPORTS, ids=lambda page: str(page.parent.relative_to(ROOT)))
def test_a_report_is_of_today_or_says_that_it_is_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.search(r"^Trained for .*protocol ([0-9a-f]{8}):", text, re.MULTILINE)
    assert found
    if f"checksums of metric networks ({found[1]}): not to be compared with runs of today" in text:
        return
    assert "not to be compared with runs of today" not in text
    name = page.relative_to(ROOT / "results").parts[0]
    assert name in suites.names()
    specs, _ = plan(Options(comparison=Comparison(suite=name)), "fp32")
    if not all(datasets.get(spec.data).available for spec in specs):
        pytest.skip("the hash holds the identity of a store that is not here")
    assert {spec.protocol.hash for spec in specs} == {found[1]}
