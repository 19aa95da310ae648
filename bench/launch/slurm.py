"""State of jobs in Slurm, with or without its accounting database."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

ADVICE = {
    "OUT_OF_MEMORY": "out of memory: raise --mem-gb, or hold fewer images at once with --micro-batch N",
    "TIMEOUT": "hit the time limit before it could save: raise --hours",
    "NODE_FAIL": "its node failed: resubmit it, it continues from the last checkpoint",
    "CANCELLED": "was cancelled",
    "BOOT_FAIL": "its node did not start: resubmit it",
    "DEADLINE": "was not started before its deadline",
    "PREEMPTED": "was preempted and not queued again: resubmit it",
}


class Queued(NamedTuple):
    """A pending or running job."""

    state: str  # PENDING, RUNNING, ...
    reason: str  # why it waits
    node: str


def queue() -> dict[str, Queued]:
    """Pending and running jobs of this user, by number (ARRAY_TASK for arrays); empty without Slurm."""
    found = {}
    for line in _ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r|%N").splitlines():
        number, state, reason, node = line.split("|")
        found[number] = Queued(state, reason, node)
    return found


def fate(number: str) -> str:
    """The state of a job that has ended; "" if unknown, since Slurm forgets jobs within minutes."""
    known = re.search(r"JobState=(\w+)", _ask("scontrol", "--oneliner", "show", "job", number))
    if known:
        return known[1]
    accounted = _ask(
        "sacct", "--jobs", number, "--noheader", "--allocations", "--parsable2", "--format=State"
    )
    return accounted.split()[0] if accounted.split() else ""


def gpus_per_node(partition: str) -> int:
    """1 if nodes of the partition ("": any) have GPUs, else 0."""
    where = [f"--partition={partition}"] if partition else []
    return int("gpu" in _ask("sinfo", "--noheader", "--format=%G", *where))


def partitions() -> list[str]:
    """The cluster's partitions, by name."""
    return sorted(set(_ask("sinfo", "--noheader", "--format=%R").split()))


def cancel(numbers: Iterable[str]) -> None:
    """Cancel jobs; jobs that have ended are ignored."""
    subprocess.run(["scancel", *numbers], capture_output=True, check=False)


def release(number: str) -> None:
    """Remove the dependencies of a pending job."""
    _ask("scontrol", "update", f"JobId={number}", "Dependency=")


def _ask(*command: str) -> str:
    """Output of a command; empty if it is absent or fails."""
    if not shutil.which(command[0]):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (subprocess.SubprocessError, OSError):
        return ""
