"""The caption says what a reader must know to compare the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.benchmark.simulated_runs import PROTOCOL
from bench.config import suites
from bench.reporting.comparison import compare
from bench.reporting.results import load
from bench.reporting.tables.caption import caption, protocol_text, purpose


def test_caption_names_all_that_the_numbers_depend_on(suite: Path) -> None:
    text = caption(compare(load(suite), "baseline", None, 0.95, allow_mixed=False))
    for part in (
        "1,000 steps of 256 images",
        "seeds 0, 1, 2",
        PROTOCOL.hash,
        "digits, 1,000 samples, balanced labels",
        "sampler repa-sde-250 (SiT) and dit-ddpm-250 (DiT)",
        "no guidance",
        "against 600 held-out digits",
        "feature nets digits-cnn, random-conv",
        "Simulated CPU (2 threads)",
    ):
        assert part in text


def test_a_folder_named_after_a_suite_has_its_purpose(suite: Path) -> None:
    compared = lambda folder: compare(load(folder), "baseline", None, 0.95, allow_mixed=False)  # noqa: E731
    assert purpose(compared(suite.rename(suite.with_name("mine")))) == ""
    for name in ("convergence", "convergence-full"):
        folder = suite.with_name("mine").rename(suite.with_name(name))
        assert purpose(compared(folder)) == suites.load("convergence").description + "."
        folder.rename(suite.with_name("mine"))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"guidance_scale": 1.5, "guidance_channels": 3}, "guidance 1.5 of the first 3 channels"),
        ({"guidance_scale": 1.8, "guidance_interval": (0.0, 0.7)}, "guidance 1.8 on t in [0, 0.7]"),
    ],
)
def test_guidance_is_said_with_interval_and_channels(change: dict, said: str) -> None:
    fields = PROTOCOL.model_copy(update=change).model_dump(mode="json")
    assert said in protocol_text("00000000", fields)
