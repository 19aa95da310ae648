"""Scoring a trained run by its protocol at several guidance scales: one row each in its eval.jsonl.

Each scale is a protocol of its own, with its own hash: tables do not mix them, the report draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from bench.config.spec import Protocol
from bench.core.errors import UserError
from bench.core.files import read_rows, to_numbers
from bench.data.image_files import writing
from bench.evaluation import sampling
from bench.evaluation.reference import reference_of_data
from bench.evaluation.scorer import Scorer
from bench.nets.judges import feature_net
from bench.runs import loading
from bench.runs.folder import RunFolder


@dataclass(frozen=True)
class Sweep:
    """What differs from the run's own protocol; None leaves it."""

    scales: Sequence[float] = ()  # none: the run's own
    interval: tuple[float, float] | None = None
    samples: int | None = None
    copy: Path | None = None  # an .npz or a folder that the samples are written to

    def protocols(self, own: Protocol) -> list[Protocol]:
        """One for each scale. Raises UserError for values outside their range."""
        settings: dict[str, Any] = own.model_dump()
        if self.interval is not None:
            settings["guidance_interval"] = self.interval
        if self.samples is not None:
            settings["samples"] = self.samples
        scales = self.scales or (own.guidance_scale,)
        try:
            return [Protocol.model_validate(settings | {"guidance_scale": scale}) for scale in scales]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the guidance"
            raise UserError(f"{where}={first['input']!r} cannot be used: {first['msg']}.") from None


def score_run(folder: Path, sweep: Sweep, device: torch.device) -> list[dict[str, Any]]:
    """The rows of the sweep, in its order; rows that are there already are not made again.

    Raises UserError where the folder is no run with a checkpoint, and for values outside their range.
    """
    run = loading.load(folder, device)
    if folder.resolve().name != run.spec.run_id:
        raise UserError(f"{folder} was renamed: a run's folder must be called {run.spec.run_id}.")
    protocols = sweep.protocols(run.spec.protocol)
    if sweep.copy is not None and len(protocols) > 1:
        raise UserError("--copy takes one guidance scale at a time.")
    store = RunFolder(folder.resolve().parent, run.spec)
    done = {(row["step"], row["protocol"]): row for row in read_rows(folder / "eval.jsonl")}
    scorer: Scorer | None = None
    rows = []
    for protocol in protocols:
        row = done.get((run.step, protocol.hash))
        if row is None or sweep.copy is not None:
            if scorer is None:
                nets = [feature_net(name, device) for name in protocol.feature_nets]
                reference = reference_of_data(run.spec.data, run.data, nets)
                scorer = Scorer(nets, reference, neighbours=protocol.neighbours)
            row = _row(run, protocol, scorer, sweep.copy)
            store.append("eval", row)
        rows.append(row)
    return rows


def _row(run: loading.LoadedRun, protocol: Protocol, scorer: Scorer, copy: Path | None) -> dict[str, Any]:
    """Sample and score the run by one protocol."""
    spec = run.spec.model_copy(update={"protocol": protocol})
    scorer.reset()
    index, what = torch.arange(protocol.samples), f"guidance {protocol.guidance_scale:g}"
    with writing(copy, protocol.samples) if copy else nullcontext() as write:
        for samples in sampling.stream(run.model, run.process, spec, run.data, index, progress=what):
            scorer.update(samples.images, samples.labels)
            if write:
                write(samples.images)
    return {
        "step": run.step,
        "seconds": run.seconds,
        "flops": run.flops,
        "samples": protocol.samples,
        "protocol": protocol.hash,
        "guidance_scale": protocol.guidance_scale,
        "guidance_interval": protocol.guidance_interval,
        "weights": protocol.weights,
        "leaky": spec.leaky,
        "metrics": to_numbers(scorer.results()),
    }
