"""Find the stage that fails: python -m bench.check protocol

Runs the stages between a trained model and its numbers apart, each against something known, and says which
deviates and what could not be checked on this machine. Exit code 2 if one fails.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from bench.core.cli import OptionalPath, option, parse
from bench.core.errors import UserError, exit_code


@dataclass(frozen=True)
class Options:
    what: tyro.conf.Positional[Literal["protocol"]]
    """the protocol by which samples are made and judged"""
    data: str = "digits"
    """the data set whose protocol is checked"""
    feature_nets: Annotated[tuple[str, ...], option()] = ()
    """further feature networks, e.g. inception clean"""
    reference: OptionalPath = None
    """an .npz of reference statistics to look at (mu, sigma, mu_s, sigma_s)"""


def main() -> None:
    """Check and print a table."""
    options = parse(Options, __doc__, {"--nets": "--feature-nets"})

    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from bench.config import resolve
    from bench.evaluation.protocol_checks import check

    protocol = resolve.run_spec("baseline", "sit-ti", options.data, seed=0).protocol
    nets = dict.fromkeys((*protocol.feature_nets, *options.feature_nets))
    protocol = protocol.model_copy(update={"feature_nets": tuple(nets)})
    findings = list(check(protocol, options.data, options.reference))
    colours = {"ok": "green", "failed": "bold red", "not checked": "yellow"}
    table = Table("stage", "", box=box.SIMPLE_HEAD)
    table.add_column("what was compared", overflow="fold")
    for stage, state, text in findings:
        table.add_row(stage, f"[{colours[state]}]{state}[/]", escape(text))
    Console().print(table)
    failed = dict.fromkeys(finding.stage for finding in findings if finding.state == "failed")
    if failed:
        raise UserError(f"the protocol of {options.data} fails in: {', '.join(failed)}.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
