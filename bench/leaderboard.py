"""Merge results of many people: python -m bench.leaderboard results alice=alice.jsonl --output site

RESULTS are folders of runs or of reports, the entries.jsonl of a report, or one entry as .json; NAME=PATH
says whose they are. The site has a page per protocol. Entries that were changed, or whose protocol or
metric networks disagree with their rows, are refused.

An entry's samples are scored again, and compared with its numbers, by
python -m bench.leaderboard ENTRY.json --verify samples.npz
Samples of a run: python -m bench.evaluate RUN --copy samples.npz
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bench.core.cli import Device, OptionalPath, option, parse
from bench.core.errors import UserError, exit_code

if TYPE_CHECKING:
    from bench.reporting.board.entries import Entry


@dataclass(frozen=True)
class Options:
    results: Annotated[tyro.conf.Positional[tuple[str, ...]], option(metavar="RESULTS...")]
    """folders or files of entries, PATH or NAME=PATH"""
    output: Path = Path("site")
    """folder of the site; an earlier site there is replaced"""
    verify: OptionalPath = None
    """score these samples (.npz, folder, zip) of a single entry instead"""
    device: Device = "auto"


def main() -> None:
    """Write the site, or verify an entry."""
    options = parse(Options, __doc__)
    if options.verify is None:
        print(f"leaderboard: {build(options)}")
    else:
        verify(options)


def build(options: Options) -> Path:
    """Write the site; returns its first page. Raises UserError for entries that are refused."""
    from bench.reporting.board import earlier, entries, site, standings

    if not options.results:
        raise UserError("name what to merge: folders of runs or reports, or files of entries.")
    found: list[tuple[str, Entry]] = []
    lines = []
    for source, path in map(_source, options.results):
        _refuse_output(options.output, path)
        found += [(source, entry) for entry in entries.read(path)]
        lines += earlier.lines(path, source)
    if not found and not lines:
        raise UserError(f"{' '.join(options.results)}: neither entries nor runs nor reports are there.")
    distinct = {entry.checksum: entry for _, entry in found}
    try:
        return site.write(standings.boards(found, lines), list(distinct.values()), options.output)
    except OSError as error:
        raise UserError(f"cannot write to {options.output}: {error.strerror or error}.") from None


def verify(options: Options) -> None:
    """Compare the metrics of an entry with those of its samples. Raises UserError if they disagree."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from bench.core import machine
    from bench.evaluation.rescoring import verify as compared
    from bench.reporting.board import entries

    assert options.verify is not None
    found = [entry for text in options.results for entry in entries.read(_source(text)[1])]
    if len(found) != 1:
        raise UserError(
            f"--verify takes one entry, these are {len(found)}: give an entry's own file, or its run."
        )
    spec = found[0].spec
    reported = found[0].row(spec.protocol.hash).metrics
    rows = compared(spec, reported, options.verify, machine.select_device(options.device))
    table = Table("metric", "entry", "samples", "", title=spec.run_id, box=box.SIMPLE_HEAD)
    for row in rows:
        state = "[green]agrees[/]" if row.agrees else "[bold red]differs[/]"
        table.add_row(escape(row.key), f"{row.said:.6g}", f"{row.found:.6g}", state)
    Console(soft_wrap=True).print(table)
    if wrong := [row.key for row in rows if not row.agrees]:
        raise UserError(f"{options.verify} does not give the entry's {', '.join(wrong)}.")


def _source(text: str) -> tuple[str, Path]:
    """Contributor and path; the contributor of a bare path is its name."""
    name, equals, rest = text.partition("=")
    path = Path(rest if equals and not Path(text).exists() else text).expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}: give a folder or a file of entries, PATH or NAME=PATH.")
    return (name if path != Path(text).expanduser() else path.stem), path


def _refuse_output(output: Path, path: Path) -> None:
    """The site replaces a folder: never one that is read, nor one that holds something else."""
    site, read = output.resolve(), path.resolve()
    if site.is_relative_to(read) or read.is_relative_to(site):
        raise UserError(
            f"--output {output} and {path}, which is read, lie in one another: choose another folder."
        )
    if (
        output.exists()
        and not (output / "entry.schema.json").is_file()
        and (not output.is_dir() or any(output.iterdir()))
    ):
        raise UserError(f"--output {output} is there and no earlier site: choose another folder.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
