"""The reward term of VRPO: rewards of the clean-image estimate, as a force on it or as advantages.

A reward on x0_hat shifts the optimum towards modes, most at high noise levels. It therefore only acts below
`t_max`, and is annealed to zero by the end of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from methods.base import REWARD_NET, BackboneInfo, Context, GetEncoder, Loss, Method
from methods.vrpo_terms import forces, logs, weighting

Estimator = Literal[
    "pathwise", "score", "pathwise-raw", "likelihood", "counterfactual", "pathwise+counterfactual"
]


class RewardTerm(Method):
    """Rewards of the estimate, weighted, by one of several estimators.

    Options:
        fidelity, perceptual, semantic: reward weights w_k; 0: off. All 0: no reward term.
        fidelity_reward: "x0" or "velocity"; they differ for pathwise-raw only.
        perceptual_reward: "features", "lpips-alex", "lpips-vgg" or "lpips-squeeze".
        semantic_reward: "tokens", "latent", "clip-image" or "clip-text".
        reward_net: network of "features" and "tokens"; "default": the one recommended for the data set.
        strength: weight of the reward term relative to the denoising loss.
        estimator: "pathwise", "score", "pathwise-raw", "likelihood", "counterfactual" or
            "pathwise+counterfactual", see `methods/vrpo.py`.
        group_size: number of samples G of score, of peers of likelihood.
        spread: s, standard deviation of the policy in units of the prediction.
        per_patch: normalise map rewards per patch instead of per image (spatial credit assignment).
        t_min, t_max: rewards act on samples with noise levels in [t_min, t_max), and are computed for these.
        relative: `strength` is in units of the denoising force on each sample, not constant.
        agreement: multiply the force on a sample by its cosine with the direction to the data, or by 0.
        share: fraction of these samples whose rewards are computed; the force is scaled by its inverse.
        warm_up: fraction of training over which the reward term rises linearly from zero.
        anneal_from: fraction of training from which the reward term decays linearly to zero ...
        reward_until: ... which it has reached at this fraction; rewards cost nothing from then on.
        shuffle: control; advantages (pathwise: forces) are permuted over the samples of the batch.
    """

    added = ("t_min", "relative", "agreement", "reward_until")

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
    t_min: float = 0.0
    t_max: float = 0.7
    relative: bool = False
    agreement: bool = False
    share: float = 1.0
    warm_up: float = 0.0
    anneal_from: float = 0.4
    reward_until: float = 1.0
    shuffle: bool = False

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        super().build(backbone, encoder)
        if self.estimator in ("score", "likelihood") and self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}: a group needs at least 2 members")
        for name in ("anneal_from", "reward_until", "share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in (0, 1]")
        if not 0 <= self.warm_up <= self.anneal_from:
            raise ValueError(f"warm_up={self.warm_up} must lie in [0, anneal_from={self.anneal_from}]")
        if self.anneal_from > self.reward_until:
            raise ValueError(
                f"anneal_from={self.anneal_from} must not exceed reward_until={self.reward_until}"
            )
        if self.spread <= 0:
            raise ValueError(f"spread={self.spread} must be positive")
        if self.t_min > self.t_max:
            raise ValueError(f"t_min={self.t_min} must not exceed t_max={self.t_max}")

    def reward_weights(self) -> dict[str, float]:
        """Names and weights of the rewards in use, at some time of training."""
        if self.strength == 0 or self.estimator == "counterfactual":
            return {}
        weights = {
            self.fidelity_reward: self.fidelity,
            self.perceptual_reward: self.perceptual,
            self.semantic_reward: self.semantic,
        }
        return {name: weight for name, weight in weights.items() if weight != 0}

    def compares_samples(self) -> bool:
        """Whether the reward term needs the whole batch."""
        return bool(self.reward_weights()) and (self.estimator == "likelihood" or self.shuffle)

    def schedule(self, step: int, steps: int) -> float:
        """Factor in [0, 1] of `strength`: rises from 0 over `warm_up`, decays to 0 between `anneal_from` and
        `reward_until`."""
        rise = (step + 1) / (self.warm_up * steps) if self.warm_up else 1.0
        end, decay = self.reward_until, self.reward_until - self.anneal_from
        fall = (end - step / steps) / decay if decay else float(step < end * steps)
        return max(0.0, min(1.0, rise, fall))

    def acts(self, step: int, steps: int) -> bool:
        """Whether there is a reward term at this step."""
        return bool(self.reward_weights()) and step < self.reward_until * steps

    def reward_term(self, context: Context, aligning: Sequence[Tensor]) -> dict[str, Loss]:
        """The loss term "reward", if rewards are in use.

        Args:
            context: the step.
            aligning: raw terms of the alignment, [B] each; likelihood weights their sum.
        """
        if not self.acts(context.step, context.steps):
            return {}
        if self.estimator != "likelihood":
            return {"reward": self._force_term(context)}
        if not aligning:
            return {}
        return {"reward": self._likelihood_term(context, torch.stack([*aligning]).sum(dim=0))}

    def _force_term(self, context: Context) -> Loss:
        """Score and pathwise: minus the projection of x0_hat onto the force."""
        acting = self._within(context.share.noise_level).nonzero()[:, 0]
        acting = acting[: round(self.share * len(acting))]
        _, own = forces.local_rows(context, acting)
        weights, raw = self.reward_weights(), self.estimator == "pathwise-raw"
        controls = {"per_patch": self.per_patch, "shuffle": self.shuffle}
        if self.estimator == "score":
            group = {"group_size": self.group_size, "spread": self.spread}
            found = forces.score(context, acting, weights, **group, **controls)
        else:
            found = forces.pathwise(context, acting, weights, normalised=not raw, **controls)
        applied = found.force
        if self.agreement:
            applied = forces.trusted(applied, (context.x0 - context.x0_hat.detach())[own].float())
        if self.relative:
            error = (context.target - context.prediction.detach())[own].float()
            applied = applied * 2 * error.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        force = torch.zeros_like(context.x0_hat, dtype=torch.float32).index_copy(0, own, applied)
        scale = context.x0_hat_scale.clamp(min=forces.SMALLEST_SCALE)
        unit = 1.0 if raw else scale * force[0].numel() ** 0.5
        value = -(force * context.x0_hat.float()).flatten(1).sum(1) / unit
        weight = self._weight(context) / self.share
        if context.share.logging and len(own):
            context.logs |= logs.of_reward_force(found, context.noise_level[own])
            context.logs |= logs.of_force(force, weight * scale / unit, context, context.noise_level)
        return Loss(value, weight)

    def _likelihood_term(self, context: Context, misalignment: Tensor) -> Loss:
        """The alignment, weighted by the advantage of the estimate."""
        assert context.rewards is not None
        noise_level = context.noise_level
        everyone = torch.arange(len(noise_level), device=noise_level.device)
        with torch.no_grad():
            rewards = context.rewards(context.x0_hat.detach().float(), everyone)
        advantage = torch.zeros_like(misalignment)
        for name, weight in self.reward_weights().items():
            reward = forces.regions(rewards[name].float(), per_patch=False, sample_dims=1)[:, 0, 0]
            whole = context.share.gather(reward), context.share.gather(noise_level)
            advantage += weight * weighting.peer_advantage(*whole, self.group_size)[context.share.rows]
            if context.share.logging:
                context.logs |= logs.by_noise(f"reward/{name}", reward, noise_level)
                context.logs[f"reward/{name}_spread"] = reward.std()
        if context.share.logging:
            context.logs["advantage/spread"] = advantage.std()
            context.logs |= logs.histogram(advantage)
        if self.shuffle:
            shuffled = forces.shuffle_across(context, context.share.batch_size, context.share.rows)
            advantage = shuffled(advantage)
        return Loss(misalignment, self._weight(context) * self._within(noise_level) * advantage)

    def _within(self, noise_level: Tensor) -> Tensor:
        """Whether rewards act at noise levels [B], bool."""
        return (noise_level >= self.t_min) & (noise_level < self.t_max)

    def _weight(self, context: Context) -> float:
        """Strength times schedule."""
        schedule = self.schedule(context.step, context.steps)
        if context.share.logging:
            context.logs["reward/schedule"] = schedule
        return self.strength * schedule
