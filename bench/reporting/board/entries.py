"""Entries of the leaderboard: a finished run each, with what its numbers rest on and a checksum of it all.

A report has the entries of its runs in `entries.jsonl`, a line each. The checksum finds accidents and edits;
it is no proof of who made an entry. `bench.evaluation.rescoring` compares its numbers with its samples.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.metrics.names import metric
from bench.runs.formats import Environment, EvaluationRow
from bench.runs.record import RunRecord

FILE = "entries.jsonl"
INCEPTION = "inception"  # metrics without a net in their name are computed with it


class Entry(BaseModel):
    """A finished run as it is sent to a leaderboard."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal[1] = 1
    """version of this format"""
    spec: RunSpec
    """how the run was trained, sampled and scored: its spec.json"""
    environment: Environment
    """hardware, versions and commit: its env.json"""
    rows: tuple[EvaluationRow, ...]
    """evaluations of the last step, one per protocol"""
    checksum: str
    """SHA-256 of the other fields as JSON with sorted keys and without spaces, hexadecimal"""

    _content: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """As it was read: what the checksum was taken of, without this version's defaults."""
        return self._content

    def row(self, protocol: str) -> EvaluationRow:
        """The evaluation under the protocol of this hash. Raises KeyError if there is none."""
        return {row.protocol: row for row in self.rows}[protocol]


def checksum(content: dict[str, Any]) -> str:
    """Of an entry as JSON values, whatever it says of its checksum itself."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def of_run(folder: Path) -> dict[str, Any]:
    """The entry of a finished run, as JSON values. Raises UserError if it cannot be one."""
    record = RunRecord(folder)
    if not record.status().finished:
        raise UserError(f"{folder} is not finished: an entry is made of a finished run.")
    last = record.steps()
    content = {
        "format": 1,
        "spec": record.spec_fields(),
        "environment": record.environment().fields(),
        "rows": [row.fields() for row in record.evaluations() if row.step == last],
    }
    content["checksum"] = checksum(content)
    parse(content, str(folder))
    return content


def lines_of(folders: Iterable[Path]) -> str:
    """The content of `entries.jsonl`: entries of the finished runs of this version among `folders`."""
    lines = []
    for folder in folders:
        try:
            lines.append(json.dumps(of_run(folder), sort_keys=True))
        except UserError:
            continue  # the report itself says what it leaves out
    return "".join(f"{line}\n" for line in lines)


def read(path: Path) -> Iterator[Entry]:
    """The entries of a file, of a run's folder, or of all reports and runs below a folder.

    Raises:
        UserError: for what is no entry, was changed, or contradicts itself.
    """
    if path.is_dir():
        for file in sorted(path.rglob(FILE)):
            yield from read(file)
        for spec in sorted(path.rglob("spec.json")):
            if RunRecord(spec.parent).status().finished:
                yield parse(of_run(spec.parent), str(spec.parent))
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    lines = text.rstrip("\n").split("\n") if path.suffix == ".jsonl" else [text]
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}" if len(lines) > 1 else str(path)
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(
                f"{where} is no entry, or damaged: give the {FILE} of a report, or one entry as .json."
            ) from None
        yield parse(content, where)


def parse(content: Any, where: str) -> Entry:
    """An entry from JSON values. Raises UserError, naming `where`, if it is none or contradicts itself."""
    try:
        entry = Entry.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ": ".join([".".join(map(str, first["loc"]))] * bool(first["loc"]) + [first["msg"]])
        raise UserError(f"{where} is no entry of this version: {place}.") from None
    if checksum(content) != entry.checksum:
        raise UserError(
            f"{where} was changed since it was made: its checksum does not agree with its content."
        )
    if reason := _contradiction(entry):
        raise UserError(f"{where}: {reason}.")
    entry._content = content
    return entry


def _contradiction(entry: Entry) -> str:
    """Why an entry is refused: rows of another protocol or metric net than the spec's, NaN and the like."""
    protocol = entry.spec.protocol
    if protocol.identity == 1:
        return "made before 0.2.0, when metric nets had no checksums; run it again to compare it"
    if not entry.rows:
        return "it has no evaluation of its last step"
    if any(row.step != entry.spec.training.steps for row in entry.rows):
        return "it has evaluations of other steps than the last"
    for row in entry.rows:
        settings = {"guidance_scale": row.guidance_scale, "guidance_interval": row.guidance_interval}
        said = protocol.model_copy(update=settings | {"samples": row.samples})
        if said.hash != row.protocol:
            return f"a row has protocol {row.protocol}, where the spec's protocol has the hash {said.hash}"
        for key, value in row.metrics.items():
            if (metric(key).net or INCEPTION) not in protocol.feature_nets:
                return f"{key} was measured by a net that the protocol does not name"
            if not math.isfinite(value):
                return f"{key} is {value}"
    return ""
