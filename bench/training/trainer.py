"""Training of one run: records -> encoders -> backbone -> losses -> optimiser -> EMA.

Several processes may train one run (`bench/core/parallel.py`), each on its rows of every batch. On a given
machine, the state after a step is a function of the spec only: every random number comes from a stream seeded
by (seed, name, step), so a run that is killed and started again continues from its last checkpoint to the
same numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

import backbones
from backbones import checkpoints, cost
from backbones.base import Backbone
from backbones.extras import Extra
from backbones.weights import Weights
from bench.config import resolve
from bench.config.spec import InitialWeights, RunSpec
from bench.core import distributed, parallel
from bench.core.compilation import refuse_without_compiler
from bench.core.errors import UserError
from bench.core.parallel import UNDIVIDED, Parallelism
from bench.core.seeding import data_order, generator, seed_of
from bench.data import datasets
from bench.data.base import Records
from bench.data.prefetch import Prefetch
from bench.diffusion.objectives import FlowMatching
from bench.nets.base import Encoder
from bench.training.batch import TrainingBatch, draw_batch
from bench.training.compilation import compile_regions, counted_as_written
from bench.training.frozen import FrozenNets
from bench.training.initial_weights import keep_projectors
from bench.training.loss import MicroBatchLoss
from methods.base import BackboneInfo, Features, Needs

DIVERGED = 100.0  # a denoising loss above this; a backbone that predicts zero has 1 to 2


class Trainer:
    """The state of a training run, and one step of it."""

    def __init__(
        self,
        spec: RunSpec,
        device: torch.device,
        parallelism: Parallelism = UNDIVIDED,
        *,
        data: Records | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """Initialise backbone, method, EMA and optimiser.

        `data` and `encoder` take the place of what the spec names, for benchmarks on random inputs.

        Raises:
            UserError: if the spec does not fit the data set, the backbone, the method or the parallelism.
        """
        self.spec, self.device, self.parallelism = spec, device, parallelism
        self.micro_batches = parallelism.micro_batches(spec.training.batch_size)
        self.rows = slice(self.micro_batches[0].start, self.micro_batches[-1].stop)  # of this process
        self.data = data or datasets.get(spec.data).open()
        self.process = resolve.process(spec.process)
        self.method = resolve.method(spec.method)
        architecture = resolve.architecture(spec.backbone)
        if spec.training.steps and spec.training.batch_size > len(self.data):
            raise UserError(
                f"batch size {spec.training.batch_size} is larger than the data set {spec.data} with its "
                f"{len(self.data)} training records: choose a smaller --batch-size."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(spec.seed, "init backbone"))
            try:
                self.backbone = self._build_backbone()
                torch.manual_seed(seed_of(spec.seed, "init method"))
                side = self.data.size // architecture.patch
                info = BackboneInfo(
                    architecture.family,
                    architecture.depth,
                    architecture.width,
                    (side, side),
                    architecture.heads,
                    architecture.patch,
                    self.data.channels,
                    self.data.classes,
                )
                self.frozen = FrozenNets(spec, self.data, info.grid, device, encoder)
                self.method.build(info, self.frozen.load_encoder)
                self._attach_extras()
            except ValueError as error:
                raise UserError(f"{spec.method} on {spec.backbone} with {spec.data}: {error}.") from None
        if spec.weights:
            self._start_from(spec.weights)
        self.method.to(device)
        self.ema = copy.deepcopy(self.backbone).requires_grad_(False).eval()
        if spec.training.compile or spec.protocol.sampling_compile:
            refuse_without_compiler(device)
        if spec.training.compile:
            compile_regions(self.backbone, self.method, device)
        self.network = parallel.wrap(
            self.backbone, self.backbone.blocks, parallelism
        )  # the module that is called
        if parallel.is_shard(next(self.backbone.parameters())):
            parallel.fsdp(self.ema, self.ema.blocks)
        self.trained = {
            f"{owner}.{name}": parameter
            for owner, module in (("backbone", self.backbone), ("method", self.method))
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        training = spec.training
        # Shards and whole tensors cannot share a group of the optimiser.
        groups = [
            [parameter for parameter in self.trained.values() if parallel.is_shard(parameter) == shard]
            for shard in (True, False)
        ]
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in groups if group],
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            # Lists of tensors at once; torch does so on GPUs alone unless told, to the same bits. The fused
            # kernel reads and writes each tensor once, but differs in the last digits.
            foreach=not training.compile,
            fused=training.compile,
        )
        self._update_ema = get_ema_multi_avg_fn(training.ema_decay)
        self.averaged: list[Tensor] = list(self.ema.parameters())
        self.averaging: list[Tensor] = list(self.backbone.parameters())
        self.frozen.load_rewards(self.method.needs(0, training.steps))
        self.loss = MicroBatchLoss(
            spec, self.process, self.method, self.backbone, self.network, self.ema, self.frozen
        )
        self.batches = Prefetch(self._read)
        self._needs: Needs | None = None  # of the previous step
        self.flops_per_step = 0

    def _build_backbone(self, extras: tuple[Extra, ...] = ()) -> Backbone:
        data = self.data
        return backbones.build(
            resolve.architecture(self.spec.backbone),
            input_size=data.size,
            channels=data.channels,
            num_classes=data.classes,
            extras=extras,
        ).to(self.device)

    def _attach_extras(self) -> None:
        """Attach extra parts of the state, initialised from their own random stream to keep runs paired."""
        extras = self.method.extras()
        if not extras:
            return
        if not isinstance(self.process, FlowMatching):
            raise ValueError(
                f"extra state needs flow matching, not {self.spec.process}: use a backbone trained by it"
            )
        torch.manual_seed(seed_of(self.spec.seed, "init extras"))
        self.backbone.attach_extras(extras)
        self.backbone.to(self.device)

    def _start_from(self, initial: InitialWeights) -> None:
        try:
            found = checkpoints.weights(initial.path, initial.family)
        except ValueError as error:
            raise UserError(str(error)) from None
        data = self.data
        theirs = (found.architecture, found.channels, found.input_size, found.num_classes)
        ours = (self.backbone.architecture, data.channels, data.size, data.classes)
        if theirs != ours:
            raise UserError(
                f"{initial.path} holds {found.found}; this run is of {self.spec.backbone} on "
                f"{self.spec.data}, inputs {data.channels} x {data.size} x {data.size}, {data.classes} "
                "classes: choose another --backbone or --data."
            )
        self._match_extras(found)
        self.backbone.load_state_dict(found.state)
        keep_projectors(found, self.method)

    def _match_extras(self, found: Weights) -> None:
        """A run that only evaluates takes the extra state of its weights; a method's must be in them."""
        if not self.spec.training.steps and not self.backbone.extras and found.extras:
            self.backbone.attach_extras(found.extras)
            self.backbone.to(self.device)
        names, theirs = (
            ", ".join(f"{extra.name} ({extra.kind} of {extra.width})" for extra in extras) or "none"
            for extras in (self.backbone.extras, found.extras)
        )
        if names != theirs:
            raise UserError(
                f"{self.spec.method} has the extra state: {names}; the weights have: {theirs}. "
                "Train from a fresh network, or start from weights of the same method."
            )

    def _read(self, step: int, needs: Needs | None = None) -> TrainingBatch:
        """This process's part of a step's batch, on the CPU, with images if an encoder will see them."""
        seed, size, steps = self.spec.seed, self.spec.training.batch_size, self.spec.training.steps
        index = data_order(seed, len(self.data), step * size, size)
        needs = needs or self.method.needs(step, steps)
        images = self.frozen.need_images(needs)
        records = self.data.batch(index, generator(seed, "data", step), images, self.rows)
        batch = draw_batch(self.spec, self.data, self.process, step, self.rows, records)
        return batch.pinned() if self.device.type == "cuda" else batch

    def prepare(self, step: int) -> Needs:
        """What the method needs at this step; where that changed, the FLOPs of a step are counted."""
        needs = self.method.needs(step, self.spec.training.steps)
        if needs != self._needs:
            self._refuse_impossible(needs)
            self._needs = needs
            self.flops_per_step = self._count_flops(step, needs)
        return needs

    def _refuse_impossible(self, needs: Needs) -> None:
        if needs.whole_batch and len(self.micro_batches) > 1:
            raise UserError(
                f"{self.spec.method} compares the samples of a batch with one another, which "
                "--micro-batch would take apart: leave it out, or use more processes."
            )
        blocks = self.backbone.architecture.depth
        for depth in (*needs.hidden_depths, *needs.attention_depths, *needs.keys_values_depths):
            if not 1 <= depth <= blocks:
                raise UserError(
                    f"{self.spec.method} asks for block {depth} of {self.spec.backbone}, which has the "
                    f"blocks 1..{blocks}."
                )

    def step(self, step: int) -> dict[str, Any]:
        """Train on batch `step` (from 0). Returns the row of the step; its values are 0-d tensors or floats.

        Raises UserError, before the weights are touched, where the loss diverged.
        """
        needs = self.prepare(step)
        training = self.spec.training
        batch, logs = self._encoded(self.batches(step), needs)
        self.optimizer.zero_grad(set_to_none=True)
        rows, fractions = [], []
        for micro in map(batch.part, self.micro_batches):
            with parallel.gradient_sync(self.network, last=micro.rows.stop == self.rows.stop):
                loss, row = self.loss(step, micro, needs)
                (loss * micro.fraction * distributed.world_size()).backward()
            rows.append(row)
            fractions.append(micro.fraction)
        parallel.average_gradients(self.method.parameters())
        self.method.after_backward(distributed.all_reduce_sum)
        row = distributed.reduce_rows(rows, fractions)
        row["logs"] = logs | row["logs"]
        row["grad_norm"] = parallel.clip_gradients(self.trained.values(), training.gradient_clip or math.inf)
        _refuse_divergence(row)
        self.optimizer.step()
        with torch.no_grad():
            self._update_ema(self.averaged, self.averaging, 0)
        return row

    def _encoded(self, batch: TrainingBatch, needs: Needs) -> tuple[TrainingBatch, dict[str, float | Tensor]]:
        """The batch on the device, with encoders' features; a reward's student learns from it.

        Also returns the student's logs.
        """
        batch = batch.on(self.device)
        seen = [self.frozen.features(micro, needs) for micro in map(batch.part, self.micro_batches)]
        features = {name: Features.cat([found[name] for found in seen]) for name in seen[0]}
        batch = replace(batch, features=features)
        return batch, self.frozen.learn(batch, needs)

    def _count_flops(self, step: int, needs: Needs) -> int:
        """FLOPs of a step of the whole batch, encoders and reward nets included; leaves no trace.

        A pass of its own, because the counter takes operators apart and so changes the last bits. Counted on
        this process's rows.
        """
        before = copy.deepcopy(self.method.state_dict())
        student = copy.deepcopy(self.frozen.rewards.student)
        # The first batch, wherever a run is continued: methods may compute less for some batches.
        first = self._read(0, needs)
        compiled = self.spec.training.compile
        with cost.counter() as counter, counted_as_written(self.backbone, compiled, counter):
            batch, _ = self._encoded(first, needs)
            for micro in map(batch.part, self.micro_batches):
                self.loss(step, micro, needs)[0].backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_backward(distributed.all_reduce_sum)
        self.method.load_state_dict(before)
        if self.frozen.rewards.student and student:
            self.frozen.rewards.student.load_state(student.state())
        return round(counter.get_total_flops() / batch.fraction)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that a checkpoint holds: backbone, ema, method, rewards and optimizer, each by name.

        Of shards, all processes must ask together.
        """
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.trained.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        parts = {
            "backbone": self.backbone.state_dict(),
            "ema": self.ema.state_dict(),
            "method": self.method.state_dict(),
            "rewards": self.frozen.rewards.student.state() if self.frozen.rewards.student else {},
            "optimizer": moments,
        }
        return {name: parallel.full_state(part) for name, part in parts.items()}

    def load_state(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `state`."""
        parallel.load(self.backbone, parts["backbone"])
        parallel.load(self.ema, parts["ema"])
        self.method.load_state_dict(parts["method"])
        if self.frozen.rewards.student:
            self.frozen.rewards.student.load_state(parts["rewards"])
        for name, parameter in self.trained.items():
            self.optimizer.state[parameter] = {
                # The step count stays where AdamW keeps it, on the CPU.
                key: value.to("cpu") if key == "step" else parallel.distribute_like(parameter, value)
                for key in ("step", "exp_avg", "exp_avg_sq")
                for value in (parts["optimizer"][f"{name}.{key}"],)
            }

    def whole(self, network: Backbone) -> Backbone:
        """Backbone or EMA to be used by one process; a copy where processes hold shards, which all must ask
        for together."""
        if not parallel.is_shard(next(network.parameters())):
            return network
        copied = self._build_backbone(self.backbone.extras).requires_grad_(False).eval()
        for name, tensor in network.state_dict().items():
            copied.state_dict()[name].copy_(parallel.full_tensor(tensor))
        return copied


def _refuse_divergence(row: Mapping[str, Any]) -> None:
    named = {**row["raw"], "gradient norm": row["grad_norm"]}
    values = dict(
        zip(named, torch.stack([v.float() for v in named.values()]).tolist(), strict=True)
    )  # one wait
    if all(map(math.isfinite, values.values())) and values["denoise"] < DIVERGED:
        return
    found = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    raise UserError(
        f"the loss diverged ({found}): try a lower --learning-rate, --precision fp32 or a smaller weight "
        "of the method."
    )
