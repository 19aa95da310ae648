"""Training one run: data -> encoder targets -> backbone -> method loss -> optimiser -> EMA -> checkpoint.

The state after a step is a function of the spec alone (on one machine): every random draw comes from a
stream seeded by (seed, name, step), so a run that is killed and started again continues from its last
checkpoint to the same numbers.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

import backbones
import bench.data
from backbones import checkpoints, cost
from bench import encoders, named
from bench.data.prefetch import Prefetch
from bench.encoders.feature_cache import FeatureCache
from bench.errors import UserError
from bench.rewards import Rewards, Setting, Truth
from bench.spec import InitialWeights, RunSpec
from bench.streams import data_order, generator, seed_of
from methods.base import REWARD_NET, TEACHER, BackboneInfo, Context, EncoderInfo, Features, Loss, Needs

DIVERGED = 100.0  # a denoising loss above this; a backbone that predicts zero has 1 to 2


class Trainer:
    """What one run trains, and one batch of its training: `step`."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        """Backbone, method, EMA and optimiser as they are before step 0.

        Raises UserError where the spec does not fit the data set, the backbone or the method.
        """
        self.spec, self.device = spec, device
        self.data = bench.data.load(spec.data)
        self.process = named.process(spec.process)
        self.method = named.method(spec.method)
        architecture = named.architecture(spec.backbone)
        if spec.training.steps and spec.training.batch_size > len(self.data):
            raise UserError(
                f"batch size {spec.training.batch_size} is larger than the data set {spec.data} with its "
                f"{len(self.data)} training records: choose a smaller --batch-size."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(spec.seed, "init backbone"))
            try:
                self.backbone = backbones.build(
                    architecture,
                    input_size=self.data.size,
                    channels=self.data.channels,
                    num_classes=self.data.classes,
                ).to(device)
                self.encoders: dict[str, encoders.Encoder | FeatureCache] = {}
                torch.manual_seed(seed_of(spec.seed, "init method"))
                side = self.data.size // architecture.patch
                self.grid = (side, side)
                info = BackboneInfo(architecture.family, architecture.depth, architecture.width, self.grid)
                self.method.build(info, self._load_encoder)
            except ValueError as error:
                raise UserError(f"{spec.method} on {spec.backbone} with {spec.data}: {error}.") from None
        if spec.weights:
            self._start_from(spec.weights)
        self.method.to(device)
        self.ema = copy.deepcopy(self.backbone).requires_grad_(False).eval()
        self.trained = {
            f"{owner}.{name}": parameter
            for owner, module in (("backbone", self.backbone), ("method", self.method))
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        training = spec.training
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self._update_ema = get_ema_multi_avg_fn(training.ema_decay)
        self.rewards = self._load_rewards(self.method.needs(0, training.steps))
        self.batches = Prefetch(self._read)
        self._needs: Needs | None = None  # of the step before
        self.flops_per_step = 0

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
        self.backbone.load_state_dict(found.state)

    def _load_encoder(self, name: str) -> EncoderInfo:
        if name not in self.encoders:
            encoder = encoders.load(
                self.spec.teacher if name == TEACHER else name,
                self.data.image_size,
                self.device,
                grid=self.grid,
                precision=self.spec.training.precision,
            )
            data = bench.data.identity(self.spec.data)
            self.encoders[name] = FeatureCache(encoder, self.data, data) if encoder.cache else encoder
        return self.encoders[name].info

    @property
    def feature_caches(self) -> list[FeatureCache]:
        """Of the encoders with `cache=true`; to be filled before the first step."""
        return [encoder for encoder in self.encoders.values() if isinstance(encoder, FeatureCache)]

    def _features(self, name: str, image: Tensor, index: Tensor) -> Features:
        encoder = self.encoders[name]
        if isinstance(encoder, FeatureCache):
            return Features(*(value.to(self.device) for value in encoder(index)))
        return encoder(image)

    def _read(self, step: int) -> bench.data.Batch:
        """The batch of a step, with images where an encoder will see them."""
        seed, size, steps = self.spec.seed, self.spec.training.batch_size, self.spec.training.steps
        index = data_order(seed, len(self.data), step * size, size)
        needs = self.method.needs(step, steps)
        asked = (*needs.encoders, TEACHER) if needs.rewards and self.rewards.student else needs.encoders
        images = any(not isinstance(self.encoders[name], FeatureCache) for name in asked)
        return self.data.batch(index, generator(seed, "data", step), images)

    def _load_rewards(self, needs: Needs) -> Rewards:
        setting = Setting(
            channels=self.data.channels,
            size=self.data.size,
            to_pixels=self.data.to_pixels,
            grid=self.grid,
            net=self.spec.reward_net if needs.reward_net == REWARD_NET else needs.reward_net,
            teacher=lambda: self._load_encoder(TEACHER),
            prompts=bench.data.preset(self.spec.data).get("prompts", ()),
            device=self.device,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.spec.seed, "init rewards"))
            return Rewards(needs.rewards, setting)

    def prepare(self, step: int) -> Needs:
        """What the method needs at this step; where that changed, the FLOPs of a step are counted."""
        needs = self.method.needs(step, self.spec.training.steps)
        if needs != self._needs:
            self._needs = needs
            self.flops_per_step = self._count_flops(step, needs)
        return needs

    def step(self, step: int) -> dict[str, Any]:
        """Train on batch `step` (from 0). Returns the row of the step; its values are 0-d tensors or floats.

        Raises UserError, before the weights are touched, where the loss diverged.
        """
        needs = self.prepare(step)
        loss, row = self._loss(step, needs)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        row["grad_norm"] = nn.utils.clip_grad_norm_(self.trained.values(), self.spec.training.gradient_clip)
        _refuse_divergence(row)
        self.optimizer.step()
        with torch.no_grad():
            self._update_ema(list(self.ema.parameters()), list(self.backbone.parameters()), 0)
        return row

    def _loss(self, step: int, needs: Needs) -> tuple[Tensor, dict[str, Any]]:
        """The total loss of batch `step`, with gradient, and its terms for the row."""
        seed, training, device = self.spec.seed, self.spec.training, self.device
        size = training.batch_size

        # Data, and the draws that all methods share.
        batch = self.batches(step)
        x0 = batch.x0.to(device)
        t = self.process.draw_t(torch.rand(size, generator=generator(seed, "time", step))).to(device)
        noise = torch.randn(x0.shape, generator=generator(seed, "noise", step)).to(device)
        dropped = torch.rand(size, generator=generator(seed, "label dropout", step)) < training.label_dropout
        label = batch.label.masked_fill(dropped, self.data.classes).to(device)

        # Encoder targets.
        image = batch.image.to(device)
        student = self.rewards.student if needs.rewards else None
        asked = dict.fromkeys((*needs.encoders, TEACHER) if student else needs.encoders)
        features = {name: self._features(name, image, batch.index) for name in asked}
        logs: dict[str, float | Tensor] = {}
        if student:
            logs["reward/student_loss"] = student.learn(x0, features[TEACHER].patch_tokens)

        # Backbone and losses.
        x_t = self.process.corrupt(x0, noise, t)
        truth = Truth(x0, self.process.x0_hat_scale(t), batch.label.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            output = self.backbone(x_t, t, label, hidden_depths=needs.hidden_depths)
            context = Context(
                x0=x0,
                noise=noise,
                t=t,
                x_t=x_t,
                target=self.process.target(x0, noise, t),
                prediction=output.prediction,
                x0_hat=self.process.x0_hat(output.prediction.float(), x_t, t),
                x0_hat_scale=truth.scale,
                label=label,
                step=step,
                steps=training.steps,
                generator=generator(seed, "method", step),
                hidden=output.hidden,
                features=features,
                rewards=self.rewards.against(truth) if needs.rewards else None,
                noise_level=self.process.noise_level(t),
                logging=step == 0 or (step + 1) % training.log_every == 0,
                logs=logs,
            )
            denoising = self.process.losses(output, x0, noise, t, x_t)
            terms = {name: Loss(value) for name, value in denoising.items()} | self.method.losses(context)
        weighted = {name: (term.weight * term.value).mean() for name, term in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        return loss, {
            "loss": loss.detach(),
            "raw": {name: term.value.detach().mean() for name, term in terms.items()},
            "weighted": {name: value.detach() for name, value in weighted.items()},
            "logs": context.logs,
        }

    def _count_flops(self, step: int, needs: Needs) -> int:
        """FLOPs of a whole step, encoders and reward nets included; leaves no trace.

        A pass of its own, because the counter takes operators apart and so changes the last bits.
        """
        before = copy.deepcopy(self.method.state_dict())
        student = copy.deepcopy(self.rewards.student)
        with cost.counter() as counter:
            loss, _ = self._loss(step, needs)
            loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.load_state_dict(before)
        if self.rewards.student and student:
            self.rewards.student.load_state(student.state())
        return counter.get_total_flops()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that a checkpoint holds: backbone, ema, method, rewards and optimizer, each by name."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.trained.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {
            "backbone": self.backbone.state_dict(),
            "ema": self.ema.state_dict(),
            "method": self.method.state_dict(),
            "rewards": self.rewards.student.state() if self.rewards.student else {},
            "optimizer": moments,
        }

    def load_state(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `state`."""
        self.backbone.load_state_dict(parts["backbone"])
        self.ema.load_state_dict(parts["ema"])
        self.method.load_state_dict(parts["method"])
        if self.rewards.student:
            self.rewards.student.load_state(parts["rewards"])
        for name, parameter in self.trained.items():
            self.optimizer.state[parameter] = {
                # The step count stays where AdamW keeps it, on the CPU.
                key: parts["optimizer"][f"{name}.{key}"].to("cpu" if key == "step" else self.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }


def _refuse_divergence(row: Mapping[str, Any]) -> None:
    values = {**row["raw"], "gradient norm": row["grad_norm"]}
    if all(math.isfinite(value) for value in values.values()) and row["raw"]["denoise"] < DIVERGED:
        return
    found = ", ".join(f"{name} {float(value):.3g}" for name, value in values.items())
    raise UserError(
        f"the loss diverged ({found}): try a lower --learning-rate, --precision fp32 or a smaller weight "
        "of the method."
    )


def to_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A step's row with floats for tensors, rounded to 6 significant digits: ready for a file."""
    return {
        key: to_numbers(value) if isinstance(value, Mapping) else float(f"{float(value):.6g}")
        for key, value in row.items()
    }


def synchronise(device: torch.device) -> float:
    """Wait for the device, then the time in seconds of a monotonic clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
