"""The alignment of VRPO: REPA's or that of other methods, with weights per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from backbones.extras import Extra
from methods.base import BackboneInfo, Context, Draw, GetEncoder, Loss, Method, Needs, Steering
from methods.parts.distances import cosine
from methods.repa import REPA
from methods.vrpo_terms import logs, weighting


class WeightedAlignment(REPA):
    """REPA, or the methods that it rides on, with a gate and controls.

    Options, in addition to those of REPA, whose `weight` and `align_until` have different defaults here:
        gate_gain: k of the counterfactual gate clip(1 + k D, 0.25, 4).
        angular: control; REPA with the angle instead of the cosine (gradient of unit length).
        align_below: control; tau of the alignment weight sigmoid(10 (tau - t)) of VA-REPA; 0: none.
    """

    weight: float = 4.0
    align_until: float = 0.5
    gate_gain: float = 100.0
    angular: bool = False
    align_below: float = 0.0

    def ride_on(self, alignment: Method) -> None:
        """Act on the terms of another method instead of REPA: `irepa+vrpo`.

        Raises:
            ValueError: if an option of its own REPA is set, since it would have no effect.
        """
        own = ("weight", "depth", "encoder", "align_until", "projector_width", "angular")
        if changed := [name for name in own if getattr(self, name) != getattr(type(self), name)]:
            raise ValueError(
                f"{changed[0]} is an option of vrpo's own REPA: set it on the method that vrpo joins"
            )
        self.alignment = alignment

    @property
    def rides(self) -> bool:
        """Whether it acts on the terms of another method."""
        return "alignment" in self._modules

    @property
    def gated(self) -> bool:
        """Whether the counterfactual gate multiplies the weight of the alignment."""
        return "gate" in self._modules

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if self.rides:
            self.alignment.build(backbone, encoder)
        else:
            super().build(backbone, encoder)

    def add_gate(self) -> None:
        """Use the counterfactual gate, if there is an alignment."""
        if self.weight != 0:
            self.gate = weighting.CounterfactualGate(self.gate_gain)

    def extras(self) -> tuple[Extra, ...]:
        return self.alignment.extras() if self.rides else ()

    def steer(self, draw: Draw) -> Steering:
        return self.alignment.steer(draw) if self.rides else Steering()

    def needs(self, step: int, steps: int) -> Needs:
        return self.alignment.needs(step, steps) if self.rides else super().needs(step, steps)

    def alignment_terms(self, context: Context) -> dict[str, Loss]:
        """The loss terms of the alignment, with the gate and the controls applied."""
        noise_level, context = context.noise_level, self._probed(context)
        if self.rides:
            terms = self.alignment.losses(context)
        elif not self.aligns(context.step, context.steps):
            return {}
        else:
            value = self.compare(weighting.angle, context) if self.angular else -self.compare(cosine, context)
            terms = {"repa": Loss(value, self.weight)}
        factors: list[Tensor] = []
        if self.gated:
            factors.append(self.gate.weight(noise_level))
            if context.share.logging:
                context.logs |= logs.by_noise("gate", factors[0], noise_level)
        if self.align_below:
            factors.append(weighting.timestep_weight(noise_level, self.align_below))
        for factor in factors:
            for name in terms.keys() - context.denoising.keys():
                terms[name] = terms[name]._replace(weight=terms[name].weight * factor)
        return terms

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        if self.rides:
            self.alignment.after_backward(total)
        if self.gated:
            self.gate.update(total)

    def _probed(self, context: Context) -> Context:
        """The context, with the first hidden state of the alignment prepared to separate its gradients.

        That of the alignment is compared with that of all other terms.
        """
        depths = self.needs(context.step, context.steps).hidden_depths
        if not depths or not (self.gated or context.share.logging):
            return context

        def watch(*moments: Tensor) -> None:
            product, a, b = moments
            if self.gated:
                self.gate.see(torch.stack(moments), context.noise_level)
            if context.share.logging:
                agreement = product / (a * b).sqrt().clamp(min=torch.finfo(a.dtype).tiny)
                context.logs.update(logs.by_noise("alignment_cosine", agreement, context.noise_level))

        hidden = weighting.probe_gradients(context.hidden[depths[0]], watch, context.share.mean_over)
        return replace(context, hidden={**context.hidden, depths[0]: hidden})
