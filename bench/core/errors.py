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
    """An error that the user can fix; one line says what is wrong, with which value, and what to do."""


class MissingAsset(UserError):
    """A file that is not on this machine yet, but can be fetched or made."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name, with the known ones and the nearest match."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {what} '{name}'.{hint} Known: {', '.join(known)}.")


def invalid(error: ValidationError, where: str) -> UserError:
    """The error for data that a pydantic model rejects: its first error, or `where` if that has no field."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if not place:
        return UserError(f"{where} cannot be used: {first['msg'].removeprefix('Value error, ')}.")
    return UserError(f"{place}={first['input']!r} cannot be used: {first['msg']}.")


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
TRY_AGAIN = "Make room or repair the disk, and run the same command again: it continues."


def exit_code(main: Callable[[], None]) -> int:
    """Run the main function of a command and return its exit status.

    0 on success; 2 with one line on a `UserError` or a full disk; 130 if interrupted. Warnings are printed as
    one line, and names that are not UTF-8 with backslashes.
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
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the final flush must not raise
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
