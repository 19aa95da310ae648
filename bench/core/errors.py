"""User errors: reported in one line, without a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Says in one line what is wrong, with which value, and what to do about it."""


class MissingAsset(UserError):
    """Something can be fetched or made, and is not on this machine yet."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name nobody registered, with the known ones and the nearest match."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {what} '{name}'.{hint} Known: {', '.join(known)}.")


def invalid(error: ValidationError, where: str) -> UserError:
    """The error for data that a pydantic model refuses: its first fault; `where` if that has no place."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if not place:
        return UserError(f"{where} cannot be used: {first['msg'].removeprefix('Value error, ')}.")
    return UserError(f"{place}={first['input']!r} cannot be used: {first['msg']}.")


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
TRY_AGAIN = "Make room or repair the disk, and run the same command again: it continues."


def exit_code(main: Callable[[], None]) -> int:
    """Run a command's main: 0 on success, 2 with one line on a `UserError` or full disk, 130 if interrupted.

    Warnings are one line, too, and names that are no UTF-8 are printed with backslashes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor shall the last flush complain
        return 0
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        print(
            f"error: {error.filename or 'a file'} cannot be written: {error.strerror}. {TRY_AGAIN}",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue.", file=sys.stderr)
        return 130
    return 0
