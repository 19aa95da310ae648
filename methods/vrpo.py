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

from dataclasses import replace

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Needs
from methods.composition import with_own_stream
from methods.vrpo_terms import logs
from methods.vrpo_terms.alignment import WeightedAlignment
from methods.vrpo_terms.reward import RewardTerm


class VRPO(RewardTerm, WeightedAlignment):
    """REPA, plus a reward-guided term on the clean-image estimate.

    Options are those of RewardTerm (`vrpo_terms/reward.py`) and WeightedAlignment (`alignment.py` there).
    """

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        super().build(backbone, encoder)
        if self.weight == 0 and self.estimator == "likelihood" and self.reward_weights():
            raise ValueError("estimator=likelihood re-weights the alignment, and weight=0 leaves none")
        if self.estimator.endswith("counterfactual"):
            self.add_gate()

    def needs(self, step: int, steps: int) -> Needs:
        needs = super().needs(step, steps)
        return replace(
            needs,
            rewards=tuple(self.reward_weights()) if self.acts(step, steps) else (),
            reward_net=self.reward_net,
            whole_batch=needs.whole_batch or (self.compares_samples() and self.acts(step, steps)),
        )

    def losses(self, context: Context) -> dict[str, Loss]:
        losses = self.alignment_terms(context)
        aligning = [loss.value for name, loss in losses.items() if name not in context.denoising]
        losses |= self.reward_term(with_own_stream(context, place=1 if self.rides else 0), aligning)
        if context.share.logging:
            repa = losses.get("repa")
            kl = None if repa is None else repa.weight * (repa.value + (0 if self.angular else 1))
            context.logs |= logs.of_divergence(context, context.noise_level, kl)
        return losses
