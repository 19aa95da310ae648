"""Check protocol, backbone, method, installation, and robustness to faults

    python -m bench.check protocol                    all stages from a trained model to its metrics
    python -m bench.check backbone my_backbone.py     the interface of backbones
    python -m bench.check method my_method.py repa    the interface of methods
    python -m bench.check faults                      kills, full disks and damaged files lose nothing
    python -m bench.check install                     versions, devices and caches, to paste into an issue

Each check compares with a known result and describes failures in one line. Exit status 2 if one fails.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from bench.core.cli import OptionalPath, option, parse
from bench.core.errors import UserError, exit_code

if TYPE_CHECKING:
    from bench.benchmark.checks.result import CheckResult

Names = tyro.conf.Positional[Annotated[tuple[str, ...], option()]]


@dataclass(frozen=True)
class ProtocolCheck:
    """Check all stages from a trained model to its metrics, one by one."""

    data: str = "digits"
    """data set whose protocol is checked"""
    feature_nets: Annotated[tuple[str, ...], option()] = ()
    """additional feature networks, e.g. inception clean"""
    reference: OptionalPath = None
    """also check this .npz of reference statistics (mu, sigma, mu_s, sigma_s)"""

    def results(self) -> dict[str, Iterable[CheckResult]]:
        """By what is checked."""
        from bench.benchmark.checks.protocol import check, protocol_of

        protocol = protocol_of(self.data, self.feature_nets)
        return {f"the protocol of {self.data}": check(protocol, self.data, self.reference)}


@dataclass(frozen=True)
class BackboneCheck:
    """Check backbones on the embedded digits: the interface of backbones/base.py."""

    name: Names
    """names, or files with options: my_backbone.py[width=128]"""

    def results(self) -> dict[str, Iterable[CheckResult]]:
        """By what is checked."""
        from bench.benchmark.checks.backbone import check_backbone

        return {name: check_backbone(name) for name in self.name}


@dataclass(frozen=True)
class MethodCheck:
    """Check methods, trained for a few steps on the embedded digits: the interface of methods/base.py."""

    name: Names
    """names, or files with options: my_method.py[weight=0.5]"""
    backbone: str = "sit-pico"
    """backbone that is trained"""

    def results(self) -> dict[str, Iterable[CheckResult]]:
        """By what is checked."""
        from bench.benchmark.checks.method import check_method

        return {name: check_method(name, self.backbone) for name in self.name}


@dataclass(frozen=True)
class FaultCheck:
    """Small commands, killed, on a full disk, with damaged files: half an hour, docs/reliability.md."""

    kills: int = 200
    """at least that many"""
    command: Annotated[tuple[str, ...], option()] = ()
    """which, by default all: train, cache, evaluate, score, prepare, report, submit, and what is read"""
    table: OptionalPath = None
    """write the counts to this Markdown file; a .jsonl file next to it allows resuming"""

    def results(self) -> dict[str, Iterable[CheckResult]]:
        """By what is checked."""
        from bench.benchmark.checks.faults.campaign import check_faults

        return {"faults": check_faults(self.kills, self.command, self.table)}


@dataclass(frozen=True)
class InstallCheck:
    """Versions, devices, caches and optional packages of this machine, as text to paste into an issue."""


@dataclass(frozen=True)
class Options:
    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ProtocolCheck, tyro.conf.subcommand("protocol")]
        | Annotated[BackboneCheck, tyro.conf.subcommand("backbone")]
        | Annotated[MethodCheck, tyro.conf.subcommand("method")]
        | Annotated[FaultCheck, tyro.conf.subcommand("faults")]
        | Annotated[InstallCheck, tyro.conf.subcommand("install")]
    ]


def main() -> None:
    """Check and print a table for each thing that is checked."""
    options = parse(Options, __doc__, {"--nets": "--feature-nets"})
    if isinstance(options.what, InstallCheck):
        from bench.benchmark.checks.install import description

        print(description())
        return
    failed = []
    for subject, results in options.what.results().items():
        stages = _print(subject, results)
        failed += [f"{subject} fails in: {', '.join(stages)}"] if stages else []
    if failed:
        raise UserError(f"{'; '.join(failed)}.")


def _print(subject: str, results: Iterable[CheckResult]) -> list[str]:
    """The table of some checks; returns the stages that failed."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "failed": "bold red", "not checked": "yellow"}
    table = Table("stage", "", title=escape(subject), box=box.SIMPLE_HEAD)
    table.add_column("what was compared", overflow="fold")
    found = list(results)
    for stage, state, text in found:
        table.add_row(stage, f"[{colours[state]}]{state}[/]", escape(text))
    Console().print(table)
    return list(dict.fromkeys(result.stage for result in found if result.state == "failed"))


if __name__ == "__main__":
    sys.exit(exit_code(main))
