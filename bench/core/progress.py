"""Progress of long work, with the time left: a live bar in a terminal, a line every half minute in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30  # in a log, whatever number of bars is open

_clock = time.monotonic
_last_line = _clock()
_hidden = False


def hide() -> None:
    """Show no bars from now on: another process shows how far this one is."""
    global _hidden
    _hidden = True


def progress_bar(total: int, done: int, what: str, unit: str) -> tqdm:
    """A bar with rate and time left; `done` came from a session before.

    On standard error: in a terminal it is live, in a log or pipe it is the lines of `_print_line`.
    """
    other = int(os.environ.get("RANK", "0")) > 0  # of several processes on one run the first speaks
    terminal = sys.stderr.isatty()
    return (tqdm if terminal else _LogBar)(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        leave=False,
        disable=_hidden or other,
        # In a log the clock of all bars decides, and the rate is the mean, since lines are few.
        mininterval=0.1 if terminal else 0,
        miniters=None if terminal else 1,
        smoothing=0.3 if terminal else 0,
    )


@contextmanager
def library_progress() -> Iterator[None]:
    """While inside, the tqdm bars of other libraries are lines in a log, too: those of a download, say."""
    if sys.stderr.isatty():
        yield
        return
    live = tqdm.display
    setattr(tqdm, "display", _print_line)  # noqa: B010
    try:
        yield
    finally:
        setattr(tqdm, "display", live)  # noqa: B010


def _print_line(bar: tqdm, msg: str | None = None, pos: int | None = None) -> bool:
    """Stands for `tqdm.display`: prints the bar as a line, if the last line of any bar is old enough."""
    global _last_line
    bar.leave = False  # or closing it would end a line that nobody began
    now = _clock()
    if msg is None and bar.n > bar.initial and now - _last_line >= SECONDS_BETWEEN_LINES:
        _last_line = now
        bar.fp.write(_line(bar.format_dict) + "\n")
        bar.fp.flush()
    return False  # nothing is on the screen to be cleared


def _line(shown: Mapping[str, Any]) -> str:
    """`"NAME: 40% (200/500 step), 3.2 step/s, 94 s left"` from tqdm's `format_dict`."""
    done, total, unit = shown["n"], shown["total"], shown["unit"]
    rate = shown["rate"] or (done - shown["initial"]) / max(shown["elapsed"], 1e-9)
    amount = tqdm.format_sizeof if shown["unit_scale"] else str
    speed = (
        f"{amount(rate) if shown['unit_scale'] else f'{rate:.3g}' if rate < 100 else round(rate)} {unit}/s"
    )
    name = f"{name}: " if (name := shown["prefix"].removesuffix(": ")) else ""
    if not total:
        return f"{name}{amount(done)} {unit}, {speed}"
    left = duration(max(0, total - done) / rate)
    return f"{name}{done / total:.0%} ({amount(done)}/{amount(total)} {unit}), {speed}, {left} left"


class _LogBar(tqdm):
    display = _print_line  # type: ignore[assignment]  # tqdm returns a bool, its stubs say None


def duration(seconds: float) -> str:
    """A duration with its unit: `"42 s"`, `"3.5 min"`, `"7.2 h"` or `"12 days"`."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86_400:.3g} days"
