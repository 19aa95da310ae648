"""Uniform access to the files in a folder, a zip or a tar. Nothing is unpacked or executed.

A key is a file's path inside its container, with forward slashes. Links to files and folders are followed, in
archives as far as they stay inside.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.core.errors import UserError
from bench.core.files import in_units

DEAD, LOOP, OUTSIDE, TWICE, UNREADABLE, SPECIAL = (
    "links to nothing",
    "links back to a folder that holds them",
    "names that leave the archive",
    "names that the archive holds twice",
    "folders that cannot be read",
    "sockets and pipes",
)
T = TypeVar("T")
LARGEST = 1 << 30  # bytes of a file that is read whole; an archive may declare any number
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}


@dataclass(frozen=True)
class Container:
    """Files by key, their path in the container."""

    path: Path
    files: list[str]  # keys, sorted
    folders: set[str]  # keys of the folders, as far as the container lists them
    read: Callable[[str], bytes]
    passed_over: dict[str, list[str]] = field(default_factory=dict)  # why -> keys


def open_container(path: Path) -> Container:
    """Open a folder, zip or uncompressed tar. Raises UserError for anything else, and for damaged files."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UserError(f"there is nothing at {path}: give a folder, zip, tar or .npz of images.")
    try:
        return _zip(path) if zipfile.is_zipfile(path) else _tar(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # damaged files raise many kinds of errors
        kind = "neither a folder, nor a zip, nor an uncompressed tar of images"
        if path.suffix.lower() in (".zip", ".tar"):
            kind = "cut off or damaged"
        raise UserError(f"{path} is {kind} ({error or 'it ends early'}).") from None


def is_npz(path: Path) -> bool:
    """Whether a file is an `.npz`, by its suffix or content."""
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return True
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged: opening it raises the error
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _folder(path: Path) -> Container:
    files: list[str] = []
    folders: set[str] = set()
    passed_over: dict[str, list[str]] = defaultdict(list)

    def walk(folder: Path, key: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            passed_over[UNREADABLE].append(key)
            return
        for entry in entries:
            inside = f"{key}/{entry.name}" if key else entry.name
            try:
                status = entry.stat()  # of what a link points to
            except OSError:
                passed_over[DEAD].append(inside)
                continue
            place = (status.st_dev, status.st_ino)
            if not entry.is_dir():
                if entry.is_file():
                    files.append(inside)
                else:
                    passed_over[SPECIAL].append(inside)
            elif place in above:
                passed_over[LOOP].append(inside)
            else:
                folders.add(inside)
                walk(folder / entry.name, inside, above | {place})

    status = path.stat()
    walk(path, "", frozenset({(status.st_dev, status.st_ino)}))

    def read(key: str) -> bytes:
        _refuse_size(path, key, (path / key).stat().st_size)
        return (path / key).read_bytes()

    return Container(path, sorted(files), folders, read, dict(passed_over))


def _zip(path: Path) -> Container:
    archive = zipfile.ZipFile(path)
    entries: dict[str, zipfile.ZipInfo] = {}
    passed_over: dict[str, list[str]] = defaultdict(list)
    folders = set()
    links: dict[str, str] = {}
    for info in archive.infolist():
        key = _inside(info.filename.replace("\\", "/"))  # as some programs on Windows write them
        if key is None:
            passed_over[OUTSIDE].append(info.filename)
        elif info.is_dir() or info.filename.endswith("\\"):
            folders.add(key)
        elif info.flag_bits & 1:
            raise UserError(f"{path} is encrypted ({key}): unpack it, and give the folder.")
        elif info.compress_type not in _COMPRESSIONS:
            raise UserError(
                f"{key} in {path} is compressed by a method that Python does not read (number "
                f"{info.compress_type}, such as Deflate64): unpack the zip, and give the folder."
            )
        elif stat.S_ISLNK(info.external_attr >> 16):
            links[key] = posixpath.join(posixpath.dirname(key), archive.read(info).decode(errors="replace"))
        elif key in entries:
            passed_over[TWICE].append(key)
        else:
            entries[key] = info
    _follow(links, entries, passed_over)

    def read(key: str) -> bytes:
        _refuse_size(path, key, entries[key].file_size)
        return archive.read(entries[key])

    files = sorted(entries)
    return Container(path, files, folders | _parents(files), read, dict(passed_over))


def _tar(path: Path) -> Container:
    places: dict[str, tuple[int, int]] = {}  # key -> offset and size of the content
    links: dict[str, str] = {}
    folders = set()
    passed_over: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            key = _inside(member.name)
            if key is None:
                passed_over[OUTSIDE].append(member.name)
            elif member.issparse():
                raise UserError(
                    f"{key} in {path} is stored as a sparse file: unpack it, and give the folder."
                )
            elif member.isfile() and key in places:
                passed_over[TWICE].append(key)
            elif member.isfile():
                places[key] = member.offset_data, member.size
            elif member.isdir():
                folders.add(key)
            elif member.issym():
                links[key] = posixpath.join(posixpath.dirname(key), member.linkname)
            elif member.islnk():
                links[key] = member.linkname
    _follow(links, places, passed_over)

    def read(key: str) -> bytes:
        offset, size = places[key]
        _refuse_size(path, key, size)
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    files = sorted(places)
    return Container(path, files, folders | _parents(files), read, dict(passed_over))


def _follow(links: dict[str, str], files: dict[str, T], passed_over: dict[str, list[str]]) -> None:
    """Add what links of an archive point to, files or whole folders, to its files, under the links' names."""
    waiting = {key: _inside(target) for key, target in links.items()}
    found = True
    while found:  # a link may lead to a link, or through one
        folders = _parents(files)
        found = {key: target for key, target in waiting.items() if target in files or target in folders}
        for key, target in found.items():
            del waiting[key]
            if target in files:
                files[key] = files[target]
            else:
                inside = [name for name in files if name.startswith(f"{target}/")]
                files |= {key + name[len(target) :]: files[name] for name in inside}
    passed_over[DEAD] += waiting


def _inside(name: str) -> str | None:
    """The normalised name of a member; None if it points outside of the archive."""
    key = posixpath.normpath(name.lstrip("/"))
    return None if key.split("/")[0] == ".." or re.match("[A-Za-z]:/", key) else key


def _refuse_size(path: Path, key: str, size: int) -> None:
    if size > LARGEST:
        raise UserError(f"{key} in {path} takes {in_units(size)}: no image does. Remove it.")


def _parents(files: Iterable[str]) -> set[str]:
    """The folders of files, and the folders of those."""
    folders = {key.rpartition("/")[0] for key in files} - {""}
    return folders | _parents(folders) if folders else folders
