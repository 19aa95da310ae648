"""The loss of a micro-batch: one forward pass of the network, and the sum of all loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Output
from bench.config.spec import RunSpec
from bench.core import distributed, parallel
from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.diffusion.objectives import FlowMatching, Process
from bench.nets.rewards.base import RewardBatch
from bench.training.batch import TrainingBatch
from bench.training.frozen import FrozenNets
from methods.base import Context, Draw, Loss, Method, Needs, Share, Steering, TokenTimes


@dataclass(frozen=True)
class MicroBatchLoss:
    """The loss of a run as a function of step and micro-batch."""

    spec: RunSpec
    process: Process
    method: Method
    backbone: Backbone
    network: nn.Module  # the backbone, wrapped if there are several processes
    ema: Backbone
    frozen: FrozenNets

    def __call__(self, step: int, batch: TrainingBatch, needs: Needs) -> tuple[Tensor, dict[str, Any]]:
        """The mean loss, with gradient, and the row of its terms.

        Raises:
            UserError: if the backbone or process does not support a request of the method.
        """
        training, process = self.spec.training, self.process
        x0, noise, label = batch.x0, batch.noise, batch.label
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            steering = self._steer(step, batch)
            times = batch.t if steering.t is None else steering.t
            t = self._of_pixels(times)  # [B], or [B, 1, H, W]
            x_t = process.corrupt(x0, noise, t)
            extras = self._extras(step, batch, steering)
            noised = {name: extra.x_t for name, extra in extras.items()}
            arguments = _arguments(needs, steering, times, noised)
            self._refuse_unknown(arguments)
            first = times.times if isinstance(times, TokenTimes) else times
            output = self.network(x_t, first, label, hidden_depths=needs.hidden_depths, **arguments)
            denoising = process.losses(output.prediction, output.variance, x0, noise, t, x_t)
            weights = dict.fromkeys(denoising, 1.0)
            for name, extra in extras.items():
                error = output.extras[name].float() - extra.target.float()
                denoising[f"denoise {name}"] = error.square().flatten(1).mean(1)
                weights[f"denoise {name}"] = extra.weight
            reward_batch = RewardBatch(x0, process.x0_hat_scale(batch.t), batch.true_label)
            share = self._share(step, batch, "method")
            context = Context(
                x0=x0,
                noise=noise,
                t=batch.t,
                x_t=x_t,
                target=process.target(x0, noise, t),
                prediction=output.prediction,
                x0_hat=process.x0_hat(output.prediction.float(), x_t, t),
                x0_hat_scale=reward_batch.scale,
                label=label,
                step=step,
                steps=training.steps,
                generator=share.generator,
                hidden=output.hidden,
                extra_hidden=output.extra_hidden,
                attention=output.attention,
                keys_values=output.keys_values,
                features=batch.features,
                denoising=denoising,
                ema=(lambda *call, **more: self._ema(batch, noised, *call, **more)) if needs.ema else None,
                rewards=self.frozen.rewards.bind(reward_batch) if needs.rewards else None,
                noise_level=process.noise_level(batch.t),
                share=share,
                memo=steering.memo,
            )
            terms = {name: Loss(value, weights[name]) for name, value in denoising.items()}
            terms |= self.method.losses(context)
        weighted = {name: (term.weight * term.value).mean() for name, term in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        return loss, {
            "loss": loss.detach(),
            "raw": {name: term.value.detach().mean() for name, term in terms.items()},
            "weighted": {name: value.detach() for name, value in weighted.items()},
            "logs": context.logs,
        }

    def _steer(self, step: int, batch: TrainingBatch) -> Steering:
        share = self._share(step, batch, "steer")
        steps = self.spec.training.steps
        drawn = batch.x0, batch.noise, batch.t, batch.label, batch.features
        draw = Draw(*drawn, step, steps, share, self.process.draw_t)
        return self.method.steer(draw)

    def _share(self, step: int, batch: TrainingBatch, stream: str) -> Share:
        training = self.spec.training
        return Share(
            batch_size=training.batch_size,
            rows=batch.rows,
            generator=generator(self.spec.seed, stream, step),
            device=batch.x0.device,
            noise_level=self.process.noise_level(batch.step_t),
            processes=distributed.world_size(),
            logging=step == 0 or (step + 1) % training.log_every == 0,
            gather=distributed.all_gather,
        )

    def _of_pixels(self, times: Tensor | TokenTimes) -> Tensor:
        """The time of each sample [B], or of each pixel [B, 1, H, W]."""
        if not isinstance(times, TokenTimes):
            return times
        if not isinstance(self.process, FlowMatching):
            raise UserError(
                f"{self.spec.method} needs a time per token, which {self.spec.process} does not "
                "support: use a backbone and a process of flow matching."
            )
        grid = times.per_token.unflatten(1, self.backbone.grid)[:, None]
        patch = self.backbone.architecture.patch
        return grid.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)

    def _extras(self, step: int, batch: TrainingBatch, steering: Steering) -> dict[str, _NoisedExtra]:
        """The extras of the state, noised with the t of the sample; each has its own random stream."""
        t = steering.t if isinstance(steering.t, Tensor) else batch.t
        found = {}
        for extra in self.backbone.extras:
            if extra.name not in steering.extras:
                raise UserError(
                    f"{self.spec.method} declares the extra {extra.name}, but steers no value of it."
                )
            clean = steering.extras[extra.name]
            stream = generator(self.spec.seed, f"noise of {extra.name}", step)
            shape = (self.spec.training.batch_size, *extra.shape(batch.x0.shape[-1]))
            noise = torch.randn(shape, generator=stream)[batch.rows].to(batch.x0.device)
            if clean.shape != noise.shape:
                raise UserError(
                    f"{self.spec.method} steers the extra {extra.name} with a value of shape "
                    f"{tuple(clean.shape)} instead of {tuple(noise.shape)}."
                )
            x_t, target = self.process.corrupt(clean, noise, t), self.process.target(clean, noise, t)
            found[extra.name] = _NoisedExtra(x_t, target, extra.weight)
        return found

    @torch.no_grad()
    def _ema(
        self,
        batch: TrainingBatch,
        noised: Mapping[str, Tensor],
        t: Tensor | TokenTimes,
        hidden_depths: tuple[int, ...] = (),
        mask: Tensor | None = None,
    ) -> Output:
        """Output of the weight average for the same noise, labels and extras at another time."""
        x_t = self.process.corrupt(batch.x0, batch.noise, self._of_pixels(t))
        arguments = _arguments(Needs(), Steering(mask=mask), t, noised)
        first = t.times if isinstance(t, TokenTimes) else t
        output = self.ema(x_t, first, batch.label, hidden_depths=hidden_depths, **arguments)
        parallel.reshard(self.ema)
        return output

    def _refuse_unknown(self, arguments: Mapping[str, Any]) -> None:
        for name in arguments:
            if not self.backbone.takes(name):
                raise UserError(
                    f"{self.spec.method} needs a backbone that takes {name}, which "
                    f"{self.spec.backbone} does not: use one whose `forward` has this argument."
                )


@dataclass(frozen=True)
class _NoisedExtra:
    x_t: Tensor
    target: Tensor
    weight: float


def _arguments(
    needs: Needs, steering: Steering, times: Tensor | TokenTimes, noised: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Additional arguments of the network, only those in use, so that all other calls stay identical."""
    values = {
        "group": times.group if isinstance(times, TokenTimes) else None,
        "attention_depths": needs.attention_depths or None,
        "keys_values_depths": needs.keys_values_depths or None,
        "replace": steering.replace or None,
        "mask": steering.mask,
        "extras": noised or None,
    }
    return {name: value for name, value in values.items() if value is not None}
