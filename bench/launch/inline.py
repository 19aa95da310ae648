"""Runs in this process, one after the other, or in all processes of torchrun."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from bench.config.spec import RunSpec
from bench.core import distributed
from bench.core.errors import UserError
from bench.core.parallel import Parallelism
from bench.launch import assets, cost
from bench.runs.folder import RunFolder, adopt, older_runs
from bench.runs.record import RunRecord


def run_all(
    specs: Sequence[RunSpec],
    root: Path,
    device: torch.device,
    parallelism: Parallelism,
    evaluate: Literal["here", "separate"],
    dry_run: bool,
    track: Sequence[str] = (),
) -> None:
    """Print the plan, then execute the runs in order; a failed run does not stop the others.

    Raises:
        UserError: if the machine lacks what they need, and if any run fails.
    """
    if not dry_run:
        specs = distributed.broadcast_from_rank0(lambda: assets.with_trained_networks(specs))
        distributed.broadcast_from_rank0(lambda: _adopt(specs, root))
    if older := distributed.broadcast_from_rank0(lambda: older_runs(root, specs)):
        print(older)
    costs = cost.estimate_all(specs, device)
    cost.show(specs, costs, root, device)
    ahead = [spec for spec in specs if not RunRecord(root / spec.run_id).status().finished]
    missing = assets.missing_assets(ahead)
    for line in missing:
        print(f"missing: {line}")
    if dry_run:
        return
    if missing:
        raise UserError(f"this machine lacks what the runs need: {missing[0]}")
    distributed.broadcast_from_rank0(lambda: cost.refuse_what_does_not_fit(costs, root, device))
    _run_in_order(specs, root, device, parallelism, evaluate, track)


def _adopt(specs: Sequence[RunSpec], root: Path) -> None:
    """Copy runs that were finished for other suites."""
    shared = [source for spec in specs if (source := adopt(root, spec))]
    if shared:
        places = ", ".join(sorted({str(source.parent) for source in shared}))
        print(f"{len(shared)} of {len(specs)} runs were finished in {places} and are copied.")


def _run_in_order(
    specs: Sequence[RunSpec],
    root: Path,
    device: torch.device,
    parallelism: Parallelism,
    evaluate: Literal["here", "separate"],
    track: Sequence[str],
) -> None:
    from bench.evaluation.evaluator import evaluate_kept  # these take seconds to import, a dry run does not
    from bench.launch.runner import Runner

    failures = []
    for number, spec in enumerate(specs, start=1):
        done = distributed.broadcast_from_rank0(lambda spec=spec: RunFolder(root, spec).finished)
        print(f"[{number}/{len(specs)}] {spec.run_id}{' (finished before)' if done else ''}", flush=True)
        if done:
            continue
        try:
            Runner(spec, root, device, parallelism, evaluate, track=track).run()
            for step in distributed.broadcast_from_rank0(
                lambda spec=spec: RunFolder(root, spec).record.kept_steps()
            ):
                evaluate_kept(spec, root, step, device)
        except UserError as error:
            if len(specs) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            failures.append(spec.run_id)
    if failures:
        raise UserError(f"{len(failures)} of {len(specs)} runs failed: {', '.join(failures)}.")
    print(f"done: {len(specs)} runs in {root}. Table and plots: python -m bench.report {root}")
