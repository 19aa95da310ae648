"""Entries and earlier reports -> boards: one per protocol, its lines grouped by what may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from bench.config.spec import Protocol
from bench.core.files import json_hash
from bench.metrics.names import Metric
from bench.reporting.board.entries import INCEPTION, Entry
from bench.reporting.results import name_differences
from bench.reporting.statistics import Estimate, estimate

_WHEN = {"evaluate_every", "checkpoint_every", "log_every"}  # decide no number of the last step
_NO_NAME = {"steps", "batch_size"} | _WHEN  # of training: no part of a method's or backbone's name


class Budget(NamedTuple):
    """Settings that must agree, in addition to the protocol, for methods to be compared."""

    backbone: str
    steps: int
    batch_size: int

    def __str__(self) -> str:
        return f"{self.backbone}, {self.steps:,} steps of {self.batch_size} images"


@dataclass(frozen=True)
class Standing:
    """A line of a board: one method of one contributor, over its seeds."""

    source: str  # who contributed it
    method: str
    budget: Budget
    seeds: tuple[int, ...]
    metrics: Mapping[str, Estimate]
    leaky: frozenset[str] = frozenset()  # metric nets that the method was trained against
    hours: tuple[float, ...] = ()  # device-hours of training, a run each
    hardware: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    checksums: tuple[str, ...] = ()  # of its entries

    def is_leaky(self, measure: Metric) -> bool:
        """Whether the method was trained against the network of a metric."""
        return (measure.net or INCEPTION) in self.leaky


@dataclass
class Board:
    """Everything that was made under one protocol."""

    protocol: str  # the hash
    content: Protocol | None = None
    words: str = ""  # the protocol as an earlier report describes it
    standings: list[Standing] = field(default_factory=list)
    earlier: list[Standing] = field(default_factory=list)  # from reports without entries

    @staticmethod
    def by_budget(standings: Iterable[Standing]) -> dict[Budget, list[Standing]]:
        """Lines that may be compared, the most lines first."""
        groups: dict[Budget, list[Standing]] = {}
        for standing in standings:
            groups.setdefault(standing.budget, []).append(standing)
        return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


class EarlierLine(NamedTuple):
    """A line of a report that was written before reports had entries."""

    protocol: str
    words: str
    standing: Standing


def boards(entries: Iterable[tuple[str, Entry]], earlier: Iterable[EarlierLine] = ()) -> list[Board]:
    """Boards of entries, each with its contributor, and of the lines of earlier reports.

    Of several entries of one contributor, configuration and seed the last counts: a run may be in several
    reports, and be evaluated again between them.
    """
    found: dict[str, Board] = {}
    members: dict[tuple[str, str, str], dict[int, Entry]] = {}
    for source, entry in entries:
        for row in entry.rows:
            key = row.protocol, source, _configuration(entry)
            members.setdefault(key, {})[entry.spec.seed] = entry
    for protocol in dict.fromkeys(key[0] for key in members):
        groups = {key: list(group.values()) for key, group in members.items() if key[0] == protocol}
        specs = [group[0].spec.model_dump(mode="json") for group in groups.values()]
        for spec in specs:
            training = spec["training"]
            spec["training"] = {key: training[key] for key in training if key not in _NO_NAME}
        name_differences(specs)
        board = found.setdefault(protocol, Board(protocol))
        board.content = _protocol_of(next(iter(groups.values()))[0], protocol)
        for (_, source, _), group, spec in zip(groups, groups.values(), specs, strict=True):
            board.standings.append(_standing(source, protocol, group, spec["method"], spec["backbone"]))
    for protocol, words, standing in earlier:
        board = found.setdefault(protocol, Board(protocol))
        board.words = board.words or words
        board.earlier.append(standing)
    for board in found.values():
        board.earlier = _merged(board.earlier)
    return sorted(found.values(), key=lambda board: (-len(board.standings), board.protocol))


def _merged(lines: Iterable[Standing]) -> list[Standing]:
    """Lines of equal numbers as one: several studies report the same runs."""
    groups: dict[tuple, list[Standing]] = {}
    for line in lines:
        numbers = tuple((name, found.mean) for name, found in line.metrics.items())
        groups.setdefault((line.method, line.budget, line.seeds, numbers), []).append(line)
    merged = []
    for first, *others in groups.values():
        more = len({line.source for line in others} - {first.source})
        source = f"{first.source} and {more} more" if more else first.source
        merged.append(replace(first, source=source))
    return merged


def _configuration(entry: Entry) -> str:
    """What runs have in common that differ in their seed, and when they were logged, alone."""
    content = {key: value for key, value in entry.spec.decisive.items() if key != "seed"}
    content["training"] = {key: value for key, value in content["training"].items() if key not in _WHEN}
    return json_hash(content)


def _protocol_of(entry: Entry, protocol: str) -> Protocol:
    row = entry.row(protocol)
    settings: dict[str, Any] = {"guidance_scale": row.guidance_scale, "samples": row.samples}
    return entry.spec.protocol.model_copy(update=settings | {"guidance_interval": row.guidance_interval})


def _standing(source: str, protocol: str, group: list[Entry], method: str, backbone: str) -> Standing:
    """A line of the entries of a group, by names that tell it apart from others of the board."""
    group = sorted(group, key=lambda entry: entry.spec.seed)
    rows, first = [entry.row(protocol) for entry in group], group[0].spec
    keys = dict.fromkeys(key for row in rows for key in row.metrics)
    hours = [row.seconds * entry.environment.devices / 3600 for row, entry in zip(rows, group, strict=True)]
    environments = [entry.environment for entry in group]
    return Standing(
        source=source,
        method=method,
        budget=Budget(backbone, first.training.steps, first.training.batch_size),
        seeds=tuple(entry.spec.seed for entry in group),
        metrics={key: estimate([row.metrics.get(key, float("nan")) for row in rows]) for key in keys},
        leaky=frozenset(net for row in rows for net in row.leaky),
        hours=tuple(hours),
        hardware=tuple(dict.fromkeys(environment.hardware for environment in environments)),
        commits=tuple(dict.fromkeys(str(e.git.get("revision", ""))[:12] or "-" for e in environments)),
        checksums=tuple(entry.checksum for entry in group),
    )
