"""Evaluation of a run: sample by a protocol, score, write a row. All processes of a run do it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from backbones.base import Backbone
from bench.config import resolve
from bench.config.grid import refuse_idle_guidance
from bench.config.spec import Protocol, RunSpec
from bench.core import distributed
from bench.core.errors import UserError, invalid
from bench.core.files import to_numbers
from bench.core.machine import synchronise
from bench.core.seeding import generator
from bench.data.base import Records
from bench.data.image_files import writing
from bench.diffusion.objectives import Process
from bench.evaluation import sampling
from bench.evaluation.reference import reference_of_data
from bench.evaluation.scorer import MetricOptions, Scorer
from bench.metrics import custom
from bench.nets.metric_nets import feature_nets, refuse_others
from bench.runs import loading, networks, sample_grid, trackers
from bench.runs.folder import RunFolder
from bench.runs.formats import Counters, EvaluationRow

REAL_CANDIDATES = 200  # training images among which those of the sample grid's classes are looked for
GRID = sample_grid.ROWS * sample_grid.COLUMNS  # images
SETTINGS = ("guidance_scale", "guidance_interval", "samples")  # that `with_guidance` may change


class Evaluator:
    """Evaluates a run, at any of its steps; feature nets and reference are loaded at the first evaluation."""

    def __init__(
        self, run: RunFolder, data: Records, process: Process, device: torch.device, rows: str = ""
    ) -> None:
        """`rows` names the part of `eval.jsonl` that rows go to, for a process other than the run's owner."""
        self.run, self.data, self.process, self.device = run, data, process, device
        self.rows = rows
        self._scorer: Scorer | None = None

    def evaluate(
        self,
        model: Backbone,
        counters: Counters,
        protocol: Protocol | None = None,
        *,
        copy: Path | None = None,
        stop_asked: Callable[[], int] = lambda: 0,
    ) -> EvaluationRow | None:
        """Sample `model`, score the samples, write and return the row; None if a process was asked to stop.

        `protocol` None is the run's own, for which the sample grid is saved as well; another one may differ
        in `SETTINGS` only. Process r of W samples numbers r, r + W, ... `copy` is an `.npz` or a folder that
        samples are written to in the order of their numbers. Raises UserError, on all processes, if samples
        or features are not finite or `copy` cannot be written.
        """
        start = synchronise(self.device)
        own = self.run.spec.protocol
        spec = self.run.spec.model_copy(update={"protocol": protocol or own})
        scorer = self._ready_scorer()
        shown = self._sample(model, spec, scorer, counters.step, copy, stop_asked)
        if shown is None:
            return None
        row = EvaluationRow(
            step=counters.step,
            seconds=counters.seconds,
            flops=counters.flops,
            samples=spec.protocol.samples,
            protocol=spec.protocol.hash,
            guidance_scale=spec.protocol.guidance_scale,
            guidance_interval=spec.protocol.guidance_interval,
            weights=spec.protocol.weights,
            leaky=networks.leaky(spec, self.run.record.evaluations()),
            metrics=distributed.broadcast_from_rank0(lambda: to_numbers(scorer.results())),
            evaluation_seconds=synchronise(self.device) - start,
        )

        def write() -> None:
            if spec.protocol == own:
                grid = torch.stack([shown[number] for number in sorted(shown)])
                sample_grid.save(grid, self.run.samples / sample_grid.name(counters.step))
                self._save_real_images(spec)
            self.run.append(row, self.rows)

        distributed.broadcast_from_rank0(write)
        return row

    def _save_real_images(self, spec: RunSpec) -> None:
        """A row of training images of the classes in the grid's first row, to compare samples with."""
        path = self.run.samples / sample_grid.REAL
        if path.is_file() or not len(self.data):
            return
        draw = generator(0, "real images")
        numbers = torch.randint(len(self.data), (REAL_CANDIDATES,), generator=draw)
        records = self.data.batch(numbers, draw)
        wanted = sampling.requested_labels(
            torch.arange(sample_grid.COLUMNS), spec.protocol.labels, self.data.classes, spec.seed
        )
        left, chosen = list(range(len(numbers))), []
        for label in wanted.tolist():  # an image of another class if the class was not drawn
            chosen.append(next((one for one in left if records.label[one] == label), left[0]))
            left.remove(chosen[-1])
        sample_grid.save(records.image[chosen], path)

    def _sample(
        self,
        model: Backbone,
        spec: RunSpec,
        scorer: Scorer,
        step: int,
        copy: Path | None,
        stop_asked: Callable[[], int],
    ) -> dict[int, Tensor] | None:
        """Show all samples to the scorer; the images of the grid by number, or None if asked to stop."""
        count, processes = spec.protocol.samples, distributed.world_size()
        numbers = torch.arange(count)[distributed.rank() :: processes]
        progress = f"step {step}, guidance {spec.protocol.guidance_scale:g}" * distributed.is_first()
        stream = sampling.stream(model, self.process, spec, self.data, numbers, progress=progress)
        shown: dict[int, Tensor] = {}
        with ExitStack() as stack:

            def open_copy() -> Callable[[Tensor], None] | None:
                return stack.enter_context(writing(copy, count)) if copy and distributed.is_first() else None

            def next_batch() -> sampling.Samples | None:
                batch = next(stream, None)
                if batch is not None:
                    scorer.update(batch.images, batch.labels, batch.indices)
                    pairs = zip(batch.indices.tolist(), batch.images, strict=True)
                    shown.update({number: image for number, image in pairs if number < GRID})
                return batch

            write = distributed.raise_on_all(open_copy)
            for _ in range(-(-count // (processes * sampling.BATCH_SIZE))):  # equally many on all processes
                batch = distributed.raise_on_all(next_batch)
                if distributed.all_reduce_max(stop_asked()):
                    return None
                if copy:
                    batches = [found for found in distributed.all_gather_object(batch) if found is not None]
                    order = torch.cat([found.indices for found in batches]).argsort()
                    images = torch.cat([found.images for found in batches])[order]
                    distributed.broadcast_from_rank0(lambda images=images: write(images) if write else None)
            distributed.broadcast_from_rank0(stack.close)
        if processes > 1:
            scorer.gather()
            shown = {
                number: image
                for part in distributed.all_gather_object(shown)
                for number, image in part.items()
            }
        return shown

    def _ready_scorer(self) -> Scorer:
        if self._scorer is None:
            spec = self.run.spec
            nets = feature_nets(spec.protocol.feature_nets, self.device)
            refuse_others(spec.protocol.checksums)
            resolve.refuse_changed_files(spec.protocol)
            reference = reference_of_data(spec.data, self.data, nets)
            options = MetricOptions(spec.protocol.neighbours, custom=custom.load(spec.protocol.metrics))
            self._scorer = Scorer(nets, reference, options=options)
        self._scorer.reset()
        return self._scorer


def evaluate_kept(spec: RunSpec, root: Path, step: int, device: torch.device) -> None:
    """Evaluate the weights that training kept of a step; other processes may do so for other steps.

    Raises:
        UserError: if nothing was kept of that step, or it is damaged.
    """
    run = distributed.broadcast_from_rank0(lambda: RunFolder(root, spec))
    if not distributed.broadcast_from_rank0(lambda: run.evaluated(step)):
        found = loading.load(run.folder, device, kept=step)
        rows = f"step-{step:08d}"  # a file of its own: appending is safe for one writer
        Evaluator(run, found.data, found.process, device, rows).evaluate(found.model, found.counters)
    if distributed.is_first():
        run.forget(step)
        trackers.send_late(run.record, spec)


def evaluate_run(
    folder: Path, protocols: Callable[[Protocol], Sequence[Protocol]], device: torch.device, copy: Path | None
) -> list[EvaluationRow]:
    """Evaluate a run at its last checkpoint under each of `protocols(its own)`; their rows, in this order.

    Rows that exist are not computed again, unless samples are to be copied. Raises UserError if the folder is
    no run with a checkpoint, or was renamed, and for several protocols with `copy`.
    """
    loaded = loading.load(folder, device)
    if folder.resolve().name != loaded.spec.run_id:
        raise UserError(f"{folder} was renamed: a run's folder must be called {loaded.spec.run_id}.")
    chosen = protocols(loaded.spec.protocol)
    if copy is not None and len(chosen) > 1:
        raise UserError("--copy takes one guidance scale at a time.")
    for protocol in chosen:
        spec = loaded.spec.model_copy(update={"protocol": protocol})
        refuse_idle_guidance(spec, loaded.data.channels)
    run = distributed.broadcast_from_rank0(lambda: RunFolder(folder.resolve().parent, loaded.spec))
    found = distributed.broadcast_from_rank0(run.record.evaluations)
    done = {row.protocol: row for row in found if row.step == loaded.counters.step}
    evaluator = Evaluator(run, loaded.data, loaded.process, device)
    rows = []
    for protocol in chosen:
        row = None if copy else done.get(protocol.hash)
        row = row or evaluator.evaluate(loaded.model, loaded.counters, protocol, copy=copy)
        assert row is not None  # nobody asks to stop
        rows.append(row)
    if distributed.is_first():
        trackers.send_late(run.record, loaded.spec)
    return rows


def with_guidance(
    own: Protocol, scales: Sequence[float], interval: tuple[float, float] | None, samples: int | None
) -> list[Protocol]:
    """The protocol with other guidance and number of samples, one per scale; None and () leave its own.

    Raises:
        UserError: for values out of range, and for an interval in which nothing is guided.
    """
    scales = scales or (own.guidance_scale,)
    if interval is not None and set(scales) == {1.0}:
        raise UserError("--guidance-interval does nothing with --guidance-scale 1, which is no guidance.")
    settings = own.model_dump()
    if interval is not None:
        settings["guidance_interval"] = interval
    if samples is not None:
        settings["samples"] = samples
    try:
        return [
            Protocol.model_validate(settings | {"guidance_scale": scale}) for scale in dict.fromkeys(scales)
        ]
    except ValidationError as error:
        raise invalid(error, "the guidance") from None
