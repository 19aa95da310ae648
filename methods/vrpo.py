"""VRPO, reward-guided alignment (after arXiv 2606.00583, of which only the abstract is public).

The formulation is our own. The state is (x_t, t, c); the action is a clean-image estimate x^ and a
representation z; the policy is a Gaussian around the backbone's estimate x0_hat, of standard deviation
s_t = s |d x0_hat / d prediction|, times von Mises-Fisher factors around the projected hidden tokens mu. The
reference policy is centred at the data x0 and the teacher's tokens y. With u the target of the prediction v,

    KL(policy || reference) = |v - u|^2 / (2 s^2) + kappa A(kappa) sum_n (1 - mu_n . y_n)

which is flow matching + REPA, up to constants that are absorbed in the weights. Maximising

    E[sum_k w_k r_k(x^)] - KL      means minimising      denoising + weight * REPA + strength * L_reward.

With all reward weights 0 it is REPA with the same options, and with weight 0 as well the baseline, bit for
bit. Combined with other methods, `irepa+vrpo`, it acts on their alignment instead of REPA, and with all
reward weights 0 it is that alignment, bit for bit.

Estimators, with F a force on x0_hat (`vrpo_terms/forces.py`) and P the number of values of an image:

    pathwise        L = -<F, x0_hat> / (|d x0_hat / d prediction| sqrt(P)),
                    F = sum_k w_k grad r_k / |grad r_k|; one forward pass of the reward network,
                    one backward pass per reward
    score           the same L, with F from G samples of x^ around the x0_hat of one state (GRPO);
                    G forward passes of the reward network, no backward, no further pass of the backbone
    pathwise-raw    L = -<F, x0_hat>,  F = sum_k w_k grad r_k: a plain perceptual loss; cost of pathwise
    likelihood      L = -A cos(y, mu),  A the rewards at x0_hat, standardised over samples of similar noise
                    level (`vrpo_terms/weighting.py`); one forward pass of the reward network
    counterfactual  REPA's weight is multiplied by a gate that measures whether following the teacher lowers
                    the denoising loss, from the gradients of the step, without a reward network.
                    pathwise+counterfactual does both.

Rewards are normalised separately, then weighted. With pathwise and score the force on the prediction does not
depend on t, for velocity (SiT) and noise (DiT) prediction. A reward on x0_hat shifts the optimum towards
modes, most at high noise levels: it only acts below t_max, and is annealed to zero at the end of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from backbones.extras import Extra
from methods.base import (
    REWARD_NET,
    BackboneInfo,
    Context,
    Draw,
    EncoderInfo,
    Loss,
    Method,
    Needs,
    Steering,
)
from methods.composition import with_own_stream
from methods.parts.distances import cosine
from methods.repa import REPA
from methods.vrpo_terms import forces, logs, weighting

Estimator = Literal[
    "pathwise", "score", "pathwise-raw", "likelihood", "counterfactual", "pathwise+counterfactual"
]


class VRPO(REPA):
    """REPA, plus a reward-guided term on the clean-image estimate.

    Options, in addition to those of REPA, whose `weight` and `align_until` have different defaults here:
        fidelity, perceptual, semantic: reward weights w_k; 0: off. All 0: REPA.
        fidelity_reward: "x0" or "velocity"; they differ for pathwise-raw only.
        perceptual_reward: "features", "lpips-alex", "lpips-vgg" or "lpips-squeeze".
        semantic_reward: "tokens", "latent", "clip-image" or "clip-text".
        reward_net: network of "features" and "tokens"; "default": the one recommended for the data set.
        strength: weight of the reward term relative to the denoising loss.
        estimator: see the module.
        group_size: number of samples G of score, of peers of likelihood.
        spread: s, standard deviation of the policy in units of the prediction.
        per_patch: normalise map rewards per patch instead of per image (spatial credit assignment).
        t_max: rewards act on samples below this noise level; they are not computed for others.
        share: fraction of these samples whose rewards are computed; the force is scaled by its inverse.
        warm_up: fraction of training over which the reward term rises linearly from zero.
        anneal_from: fraction of training from which the reward term decays linearly to zero.
        gate_gain: k of the counterfactual gate clip(1 + k D, 0.25, 4).
        shuffle: control; advantages (pathwise: forces) are permuted over the samples of the batch.
        angular: control; REPA with the angle instead of the cosine (gradient of unit length).
        align_below: control; tau of the alignment weight sigmoid(10 (tau - t)) of VA-REPA; 0: none.
    """

    weight: float = 4.0
    align_until: float = 0.5
    fidelity: float = 0.0
    perceptual: float = 1.0
    semantic: float = 1.0
    fidelity_reward: str = "x0"
    perceptual_reward: str = "features"
    semantic_reward: str = "tokens"
    reward_net: str = REWARD_NET
    strength: float = 2.0
    estimator: Estimator = "pathwise"
    group_size: int = 8
    spread: float = 0.1
    per_patch: bool = False
    t_max: float = 0.7
    share: float = 1.0
    warm_up: float = 0.0
    anneal_from: float = 0.4
    gate_gain: float = 100.0
    shuffle: bool = False
    angular: bool = False
    align_below: float = 0.0

    def ride_on(self, alignment: Method) -> None:
        """Act on the terms of another method instead of REPA: `irepa+vrpo`.

        Raises:
            ValueError: if an option of VRPO's own REPA is set, since it would have no effect.
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

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        if self.rides:
            self.alignment.build(backbone, encoder)
        else:
            super().build(backbone, encoder)
        if self.estimator in ("score", "likelihood") and self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}: a group needs at least 2 members")
        for name in ("anneal_from", "share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in (0, 1]")
        if not 0 <= self.warm_up <= self.anneal_from:
            raise ValueError(f"warm_up={self.warm_up} must lie in [0, anneal_from={self.anneal_from}]")
        if self.spread <= 0:
            raise ValueError(f"spread={self.spread} must be positive")
        if self.weight == 0 and self.estimator == "likelihood" and self.reward_weights():
            raise ValueError("estimator=likelihood re-weights the alignment, and weight=0 leaves none")
        if self.gated and self.weight != 0:
            self.gate = weighting.CounterfactualGate(self.gate_gain)

    @property
    def gated(self) -> bool:
        """Whether the counterfactual gate multiplies the weight of the alignment."""
        return self.estimator.endswith("counterfactual")

    def reward_weights(self) -> dict[str, float]:
        """Names and weights of the rewards in use."""
        if self.strength == 0 or self.estimator == "counterfactual":
            return {}
        weights = {
            self.fidelity_reward: self.fidelity,
            self.perceptual_reward: self.perceptual,
            self.semantic_reward: self.semantic,
        }
        return {name: weight for name, weight in weights.items() if weight != 0}

    def schedule(self, step: int, steps: int) -> float:
        """Factor in [0, 1] of `strength`: rises from 0 over `warm_up`, decays to 0 from `anneal_from`."""
        rise = (step + 1) / (self.warm_up * steps) if self.warm_up else 1.0
        fall = (1 - step / steps) / (1 - self.anneal_from) if self.anneal_from < 1 else 1.0
        return max(0.0, min(1.0, rise, fall))

    def extras(self) -> tuple[Extra, ...]:
        return self.alignment.extras() if self.rides else ()

    def steer(self, draw: Draw) -> Steering:
        return self.alignment.steer(draw) if self.rides else Steering()

    def needs(self, step: int, steps: int) -> Needs:
        needs = self.alignment.needs(step, steps) if self.rides else super().needs(step, steps)
        rewards = tuple(self.reward_weights())
        compares = needs.whole_batch or (bool(rewards) and (self.estimator == "likelihood" or self.shuffle))
        return replace(needs, rewards=rewards, reward_net=self.reward_net, whole_batch=compares)

    def losses(self, context: Context) -> dict[str, Loss]:
        noise_level = context.noise_level
        losses = self._alignment(context, noise_level)
        aligning = [loss for name, loss in losses.items() if name not in context.denoising]
        weights, own = self.reward_weights(), with_own_stream(context, place=1 if self.rides else 0)
        if weights and self.estimator == "likelihood":
            if aligning:
                misalignment = torch.stack([loss.value for loss in aligning]).sum(dim=0)
                losses["reward"] = self._likelihood(own, weights, noise_level, misalignment)
        elif weights:
            losses["reward"] = self._reward_force(own, weights, noise_level)
        if context.share.logging:
            repa = losses.get("repa")
            kl = None if repa is None else repa.weight * (repa.value + (0 if self.angular else 1))
            context.logs |= logs.of_divergence(context, noise_level, kl)
        return losses

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        if self.rides:
            self.alignment.after_backward(total)
        if self.gated and self.weight != 0:
            self.gate.update(total)

    def _reward_force(self, context: Context, weights: Mapping[str, float], noise_level: Tensor) -> Loss:
        """The reward term of score and pathwise: minus the projection of x0_hat onto the force."""
        acting = (context.share.noise_level < self.t_max).nonzero()[:, 0]
        acting = acting[: round(self.share * len(acting))]
        _, own = forces.local_rows(context, acting)
        if self.estimator == "score":
            found = forces.score(
                context,
                acting,
                weights,
                group_size=self.group_size,
                spread=self.spread,
                per_patch=self.per_patch,
                shuffle=self.shuffle,
            )
        else:
            found = forces.pathwise(
                context,
                acting,
                weights,
                normalised=self.estimator != "pathwise-raw",
                per_patch=self.per_patch,
                shuffle=self.shuffle,
            )
        force = torch.zeros_like(context.x0_hat, dtype=torch.float32).index_copy(0, own, found.force)
        scale = context.x0_hat_scale.clamp(min=forces.SMALLEST_SCALE)
        unit = 1.0 if self.estimator == "pathwise-raw" else scale * force[0].numel() ** 0.5
        value = -(force * context.x0_hat.float()).flatten(1).sum(1) / unit
        weight = self._reward_weight(context) / self.share
        if context.share.logging and len(own):
            context.logs |= logs.of_reward_force(found, noise_level[own])
            context.logs |= logs.of_force(force, weight * scale / unit, context, noise_level)
        return Loss(value, weight)

    def _reward_weight(self, context: Context) -> float:
        """Strength times schedule."""
        schedule = self.schedule(context.step, context.steps)
        if context.share.logging:
            context.logs["reward/schedule"] = schedule
        return self.strength * schedule

    def _alignment(self, context: Context, noise_level: Tensor) -> dict[str, Loss]:
        """The loss terms of the alignment, with the counterfactual gate and the controls applied."""
        context = self._watched(context, noise_level)
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

    def _watched(self, context: Context, noise_level: Tensor) -> Context:
        """The context, with the first hidden state of the alignment prepared to separate its gradients.

        That of the alignment is compared with that of all other terms.
        """
        depths = self.needs(context.step, context.steps).hidden_depths
        if not depths or not (self.gated or context.share.logging):
            return context

        def watch(*moments: Tensor) -> None:
            product, a, b = moments
            if self.gated:
                self.gate.see(torch.stack(moments), noise_level)
            if context.share.logging:
                agreement = product / (a * b).sqrt().clamp(min=torch.finfo(a.dtype).tiny)
                context.logs.update(logs.by_noise("alignment_cosine", agreement, noise_level))

        hidden = weighting.probe_gradients(context.hidden[depths[0]], watch, context.share.mean_over)
        return replace(context, hidden={**context.hidden, depths[0]: hidden})

    def _likelihood(
        self, context: Context, weights: Mapping[str, float], noise_level: Tensor, misalignment: Tensor
    ) -> Loss:
        """The reward term of likelihood: alignment weighted by the advantage of the estimate."""
        assert context.rewards is not None
        everyone = torch.arange(len(noise_level), device=noise_level.device)
        with torch.no_grad():
            rewards = context.rewards(context.x0_hat.detach().float(), everyone)
        advantage = torch.zeros_like(misalignment)
        for name, weight in weights.items():
            reward = forces.regions(rewards[name].float(), per_patch=False, sample_dims=1)[:, 0, 0]
            everyone = context.share.gather(reward), context.share.gather(noise_level)
            advantage += weight * weighting.peer_advantage(*everyone, self.group_size)[context.share.rows]
            if context.share.logging:
                context.logs |= logs.by_noise(f"reward/{name}", reward, noise_level)
                context.logs[f"reward/{name}_spread"] = reward.std()
        if context.share.logging:
            context.logs["advantage/spread"] = advantage.std()
            context.logs |= logs.histogram(advantage)
        if self.shuffle:
            advantage = forces.shuffle_across(context, context.share.batch_size, context.share.rows)(
                advantage
            )
        return Loss(misalignment, self._reward_weight(context) * (noise_level < self.t_max) * advantage)
