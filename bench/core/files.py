"""Reading and writing of files: atomic writes, JSON, rows, checksums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from bench.core.errors import UserError

_HOST = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context of an atomic write: a temporary path in the same folder, renamed to `path` at the end.

    The block writes a file or makes a folder there. A file is flushed to disk before it is renamed; a folder
    replaces an existing one. If the block raises, `path` is unchanged and nothing is left behind; leftovers
    of a killed process are removed at the next write. The temporary name begins with a dot and keeps the
    suffix, since numpy appends a missing one.
    """
    path = Path(os.path.abspath(path))  # so that "." has a name, too
    unfinished = path.with_name(f".{path.stem}.{_HOST}-{os.getpid()}{path.suffix}")
    _remove_stale(path)
    try:
        yield unfinished
        if unfinished.is_dir():
            if path.exists():
                shutil.rmtree(path)
        else:
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except Exception as error:
        # safetensors hides the disk's errors in one of its own: "I/O error: ... (os error 28)".
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code and type(error).__name__ == "SafetensorError":
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
        raise
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove leftovers of `path` from killed processes of this machine."""
    for other in path.parent.glob(f".{escape(path.stem)}.{_HOST}-*{path.suffix}"):
        process = other.name.removesuffix(path.suffix).rpartition("-")[2]
        if process.isdigit() and not _runs(int(process)):
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically. Raises OSError."""
    with replacing(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically. Raises OSError."""
    write_text(path, json.dumps(content, indent=2))


def json_hash(content: Any) -> str:
    """The first 8 hex digits of the SHA-256 of plain data as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, damaged, or not an object."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `.jsonl` file. Lines that are no rows are skipped; a missing file has no rows.

    The rows of NAME.PART.jsonl follow those of NAME.jsonl, since each file has one writer.
    """
    return [row for _, _, row in _lines(path) if row is not None]


def damaged_lines(path: Path) -> list[str]:
    """Lines of a `.jsonl` file that are no rows, such as `eval.jsonl:3`.

    Beginnings of rows do not count: a kill leaves them, and their rows are written again.
    """
    return [place for place, line, row in _lines(path) if row is None and not _is_beginning(line)]


def _lines(path: Path) -> Iterator[tuple[str, bytes, dict[str, Any] | None]]:
    """Place, content and row of each line that is not empty; the row is None where it is none."""
    for part in (path, *sorted(path.parent.glob(f"{escape(path.stem)}.*{path.suffix}"))):
        if not part.is_file():
            continue
        # Not splitlines(), which also splits at separators that JSON may hold within a string.
        for number, line in enumerate(part.read_bytes().split(b"\n"), start=1):
            if not line:
                continue
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError):
                row = None
            yield f"{part.name}:{number}", line, row if isinstance(row, dict) else None


def _is_beginning(line: bytes) -> bool:
    """Whether a line may be a row of which only the first bytes were written."""
    return line.startswith(b"{") and (not line.endswith(b"}") or line.count(b"{") > line.count(b"}"))


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a `.jsonl` file, after ending a line torn by an earlier kill. Raises OSError."""
    with open(path, "ab+", buffering=0) as file:  # unbuffered: one write per row
        torn = b""
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + json.dumps(row).encode() + b"\n")


def to_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with tensors converted to floats, rounded to 6 significant digits, ready for JSON."""
    return {
        key: to_numbers(value) if isinstance(value, Mapping) else float(f"{float(value):.6g}")
        for key, value in row.items()
    }


def in_units(size: float) -> str:
    """A number of bytes with its unit: `"980 bytes"`, `"3.2 MB"`, `"140 GB"`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def refuse_unwritable(folder: Path, remedy: str) -> None:
    """Raises UserError if `folder`, which need not exist, is not writable. Creates nothing."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; {remedy}.") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
