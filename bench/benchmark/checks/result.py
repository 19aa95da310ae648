"""Result of a check, and a list of checks run one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from bench.core.errors import UserError

C = TypeVar("C")


class CheckResult(NamedTuple):
    """What the check of one stage, or of one part of it, found."""

    stage: str
    state: Literal["ok", "failed", "not checked"]
    text: str


class CheckFailed(Exception):
    """A check has failed; the message says what is wrong and where."""


class NotChecked(Exception):
    """A check does not apply; the message says why."""


def run_checks(checks: Mapping[str, Callable[[C], str]], case: C, file: str) -> Iterator[CheckResult]:
    """Results of all checks; if the first fails, the others are skipped.

    A check returns what it compared. `file` is where the code under test lies: of an error inside of it, the
    line is named.
    """
    failed = False
    for number, (name, check) in enumerate(checks.items()):
        if failed and number:
            yield CheckResult(name, "not checked", "mend the first failure before this can be tried")
            continue
        try:
            yield CheckResult(name, "ok", check(case))
        except NotChecked as reason:
            yield CheckResult(name, "not checked", str(reason))
        except (CheckFailed, UserError) as error:
            failed = failed or number == 0
            yield CheckResult(name, "failed", str(error))
        except Exception as error:  # code under test may raise anything
            failed = failed or number == 0
            yield CheckResult(name, "failed", _in_words(error, file))


def _in_words(error: Exception, file: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f for f in reversed(frames) if Path(f.filename).name == Path(file).name), frames[-1])
    message = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {message}"
