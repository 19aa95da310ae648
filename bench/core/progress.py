"""Progress of long work: live bars in a terminal, a line every half minute in a log."""

import os
import sys

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30  # in a log


def progress_bar(total: int, done: int, what: str, unit: str, *, inner: bool = False) -> tqdm:
    """A bar with rate and time left; `done` came from a session before, an `inner` bar stays out of logs."""
    live = sys.stderr.isatty()
    other = int(os.environ.get("RANK", "0")) > 0  # of several processes on one run the first speaks
    pause = 0.1 if live else SECONDS_BETWEEN_LINES
    hidden = other or (inner and not live)
    bar = tqdm(
        total=total, initial=done, desc=what, unit=unit, leave=False, mininterval=pause, disable=hidden
    )
    bar.maxinterval = max(pause, 10.0)
    return bar


def duration(seconds: float) -> str:
    """`"42 s"`, `"3.5 min"`, `"7.2 h"` or `"12 days"`."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86_400:.3g} days"
