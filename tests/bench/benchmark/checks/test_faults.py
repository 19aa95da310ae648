"""The short form of the campaign of faults; the long one is `python -m bench.check faults`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.benchmark.checks.faults.counts import Line, table
from bench.core.files import read_rows


@pytest.mark.timeout(1800)
def test_kills_and_full_disks_lose_nothing(tmp_path: Path):
    counts = tmp_path / "counts.md"
    command = (sys.executable, "-m", "bench.check", "faults", "--kills", "3", "--command", "prepare", "store")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--table", counts], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row.split("|")[1:-1] for row in counts.read_text().splitlines()[2:-1]]
    tried = {(fault.strip(), name.strip()): int(tries) for fault, name, tries, *_ in rows}
    assert tried["killed at a random moment", "prepare"] >= 3
    assert tried["disk full at every write", "prepare"] >= 2
    assert tried["bit flipped", "reads: store"] >= 2
    kept = [(row["fault"], row["task"]) for row in read_rows(counts.with_suffix(".jsonl"))]
    assert kept == list(tried)  # from which an interrupted campaign continues


def test_the_table_adds_up():
    lines = [Line("a", "x", tries=3, stopped=2, said="full | disk"), Line("b", "y", tries=4, lost=1)]
    assert table(lines).splitlines()[2:] == [
        r"| a | x | 3 | 2 | 0 | full \| disk |",
        "| b | y | 4 | 0 | 1 |  |",
        "| all | | 7 | 2 | 1 | |",
    ]
