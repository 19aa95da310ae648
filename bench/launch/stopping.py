"""How runs are stopped: signals are noted, the step at hand is ended, the state is saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# What a signal asks for: to stop, or to stop because the same job will be started again.
STOP, AGAIN = 1, 2
SIGNALS: dict[int, int] = {signal.SIGINT: STOP, signal.SIGTERM: STOP}


class Stopped(KeyboardInterrupt):
    """A signal stopped the run; its state is saved. `request` is STOP or AGAIN."""

    def __init__(self, request: int) -> None:
        super().__init__()
        self.request = request


@contextmanager
def noted(signals: Mapping[int, int] = SIGNALS) -> Iterator[Callable[[], int]]:
    """While inside, signals are noted, so that no step is cut in two; a second SIGINT interrupts.

    Gives what was asked for most urgently so far, 0 for nothing.
    """
    asked: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT and signals[number] in asked:
            raise KeyboardInterrupt
        asked.append(signals[number])

    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield lambda: max(asked, default=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
