"""Weights of the alignment against their definitions: peers, the counterfactual gate, unit forces."""

import math
from dataclasses import replace

import pytest
import torch

from methods.base import BackboneInfo, Context, EncoderInfo, Features
from methods.repa import REPA
from methods.vrpo import VRPO
from methods.vrpo_terms import logs, weighting


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_peers_are_the_samples_of_nearest_noise_level():
    """Two noise levels far apart: each sample is standardised within its own half."""
    reward, level = normal(8), torch.tensor([0.1, 0.9] * 4) + torch.arange(8) / 1000
    found = weighting.peer_advantage(reward, level, peers=4)
    low, high = found[0::2], found[1::2]
    first = (reward[0] - reward[[0, 2, 4, 6]].mean()) / reward[[0, 2, 4, 6]].std()
    last = (reward[7] - reward[[1, 3, 5, 7]].mean()) / reward[[1, 3, 5, 7]].std()
    assert low[0] == pytest.approx(first.item(), rel=1e-5)
    assert high[3] == pytest.approx(last.item(), rel=1e-5)
    assert torch.equal(weighting.peer_advantage(torch.ones(8), level, 4), torch.zeros(8))


def test_peer_advantages_ignore_scale_offset_and_order():
    reward, level, order = (
        normal(9),
        torch.rand(9, generator=torch.Generator().manual_seed(1)),
        torch.randperm(9),
    )
    found = weighting.peer_advantage(reward, level, peers=4)
    assert torch.allclose(weighting.peer_advantage(2 * reward + 5, level, 4), found, atol=1e-5)
    assert torch.allclose(weighting.peer_advantage(reward[order], level[order], 4), found[order], atol=1e-6)


def test_the_angle_pulls_a_unit_token_with_a_unit_force():
    """REPA's cosine pulls with sin(angle), the angle with 1, in the same direction."""
    tokens = torch.nn.functional.normalize(normal(5, 1, 6), dim=-1).requires_grad_()
    target = torch.nn.functional.normalize(normal(5, 1, 6, seed=1), dim=-1)
    (by_angle,) = torch.autograd.grad(weighting.angle(tokens, target).sum(), tokens)
    (by_cosine,) = torch.autograd.grad(-(tokens * target).sum(dim=-1).sum(), tokens)
    by_cosine = by_cosine - (by_cosine * tokens).sum(-1, keepdim=True) * tokens  # on the sphere
    assert torch.allclose(by_angle.norm(dim=-1), torch.ones(5, 1), atol=1e-4)
    assert torch.allclose(torch.cosine_similarity(by_angle, by_cosine, dim=-1), torch.ones(5, 1), atol=1e-4)


def test_the_angle_of_a_sample_is_the_mean_over_its_tokens():
    first, second = torch.eye(4)[:2]
    tokens = torch.stack([first, first])[None].requires_grad_()
    found = weighting.angle(tokens, torch.stack([first, second])[None])
    assert found.item() == pytest.approx(math.pi / 4, abs=2e-3)  # of almost 0 and a right angle
    (gradient,) = torch.autograd.grad(found.sum(), tokens)
    assert gradient.isfinite().all()


def watched_moments(hidden, own, others):
    """What a watch sees of mean(own . h) through the branch and mean(others . h) past it."""
    seen = []
    watch = lambda *moments: seen.append(torch.stack(moments))  # noqa: E731
    branch = weighting.probe_gradients(hidden, watch, len(hidden))
    ((branch * own).sum((1, 2)).mean() + (hidden * others).sum((1, 2)).mean()).backward()
    return seen[0]


def test_a_watch_sees_per_sample_products_of_the_two_gradients():
    hidden = normal(3, 2, 4).requires_grad_()
    own, others = normal(3, 2, 4, seed=1), normal(3, 2, 4, seed=2)
    found = watched_moments(hidden, own, others)
    products = [(a * b).sum((1, 2)) for a, b in ((own, others), (own, own), (others, others))]
    assert torch.allclose(found, torch.stack(products), atol=1e-5)
    assert torch.allclose(hidden.grad, (own + others) / 3, atol=1e-6)


def test_the_gate_follows_whether_alignment_and_denoising_agree():
    """Equal gradients at low noise give D = 1, opposite ones at high noise -1, unseen bins 0."""
    gate = weighting.CounterfactualGate(gain=0.5)
    hidden, own = normal(2, 2, 4).requires_grad_(), normal(2, 2, 4, seed=1)
    moments = watched_moments(hidden, own, own * torch.tensor([3.0, -2.0]).view(2, 1, 1))
    level = torch.tensor([0.1, 0.9])
    assert torch.equal(gate.weight(level), torch.ones(2))
    gate.see(moments, level)
    gate.update(lambda sums: sums)
    assert torch.allclose(gate.agreement(), torch.tensor([1.0, 0, 0, -1]), atol=1e-5)
    assert torch.allclose(gate.weight(level), torch.tensor([1.5, 0.5]), atol=1e-5)
    resumed = weighting.CounterfactualGate(gain=0.5)
    resumed.load_state_dict(gate.state_dict())
    assert torch.equal(resumed.weight(level), gate.weight(level))


def test_processes_and_micro_batches_gate_like_one_batch():
    """Each of two processes sees half of the batch, one of them in two micro-batches."""
    moments, level = normal(3, 8).abs(), torch.rand(8, generator=torch.Generator().manual_seed(1))
    alone, other, both = (weighting.CounterfactualGate(1.0) for _ in range(3))
    alone.see(moments, level)
    alone.update(lambda sums: sums)
    other.see(moments[:, 4:], level[4:])
    other.update(lambda sums: sums)
    both.see(moments[:, :1], level[:1])
    both.see(moments[:, 1:4], level[1:4])
    both.update(lambda sums: sums + other.sums)
    assert torch.allclose(both.sums, alone.sums)


def state(method, batch=4, step=0):
    """A step of a backbone of 6 blocks, 4 tokens of width 8, and an encoder of width 5."""
    method.build(BackboneInfo("sit", 6, 8, (2, 2)), lambda name: EncoderInfo(name, 5, (2, 2)))
    x0, noise, t = normal(batch, 1, 4, 4), normal(batch, 1, 4, 4, seed=1), torch.linspace(0.1, 0.9, batch)
    tokens = normal(batch, 4, 5, seed=3)
    return Context(
        x0=x0,
        noise=noise,
        t=t,
        x_t=x0 + noise,
        target=noise - x0,
        prediction=noise.clone().requires_grad_(),
        x0_hat=x0 + 0.1 * noise,
        x0_hat_scale=t,
        label=torch.zeros(batch, dtype=torch.long),
        step=step,
        steps=100,
        generator=torch.Generator().manual_seed(0),
        hidden={2: normal(batch, 4, 8, seed=2).requires_grad_()},
        features={"teacher": Features(tokens, tokens.mean(1))},
        rewards=lambda x, _: {"features": -x.square().mean((-3, -2, -1)), "tokens": x.mean((-3, -2, -1))},
    )


def test_likelihood_weighs_the_alignment_by_the_advantage():
    method = VRPO(estimator="likelihood", semantic=0.0, group_size=4, strength=0.5, t_max=1.0)
    context = state(method)
    losses = method.losses(context)
    rewards = context.rewards(context.x0_hat, torch.arange(4))
    advantage = weighting.peer_advantage(rewards["features"], context.t, 4)
    assert torch.equal(losses["reward"].value, losses["repa"].value)
    assert torch.allclose(losses["reward"].weight, 0.5 * advantage)
    below = VRPO(estimator="likelihood", semantic=0.0, group_size=4, strength=0.5, t_max=0.5)
    acting = context.t < 0.5
    assert torch.allclose(below.losses(state(below))["reward"].weight, 0.5 * advantage * acting)


def test_likelihood_weighs_the_sum_of_several_alignments():
    method = VRPO(estimator="likelihood", semantic=0.0, group_size=4)
    first, second = normal(4), normal(4, seed=1)
    found = method.reward_term(state(method), [first, second])["reward"]
    assert torch.allclose(found.value, first + second)


def test_likelihood_needs_an_alignment_to_weigh():
    with pytest.raises(ValueError, match="weight=0 leaves none"):
        state(VRPO(estimator="likelihood", weight=0.0))
    state(VRPO(weight=0.0))  # the pathwise force does without


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        ({}, False),
        ({"shuffle": True}, True),
        ({"estimator": "likelihood"}, True),
        ({"estimator": "likelihood", "fidelity": 0.0, "perceptual": 0.0, "semantic": 0.0}, False),
    ],
)
def test_the_whole_batch_is_needed_where_samples_are_compared(options, whole):
    method = VRPO(**options)
    state(method)
    assert method.needs(0, 100).whole_batch == whole


def test_the_logged_kl_of_tokens_is_repas_weight_times_one_minus_the_cosine():
    method = VRPO(perceptual=0.0, semantic=0.0, weight=3.0)
    context = state(method)
    context.share = replace(context.share, logging=True)
    cosine = -method.losses(context)["repa"].value.detach()
    for name, value in logs.by_noise("kl/tokens", 3 * (1 - cosine), context.noise_level).items():
        assert context.logs[name] == pytest.approx(value.item(), rel=1e-5)


def test_controls_change_the_alignment_as_they_say():
    torch.manual_seed(0)
    repa, late = REPA(), VRPO(strength=0.0, align_below=0.5, weight=0.5)
    expected = repa.losses(state(repa))["repa"]
    torch.manual_seed(0)
    context = state(late)
    found = late.losses(context)["repa"]
    assert torch.equal(found.value, expected.value)
    assert torch.allclose(found.weight, 0.5 / (1 + torch.exp(-10 * (0.5 - context.t))))
    stopped = REPA(align_until=0.4)
    assert stopped.losses(state(stopped, step=40)) == {}
    assert stopped.needs(39, 100).encoders and not stopped.needs(40, 100).encoders


def test_logged_bins_average_to_the_whole_and_histograms_to_one():
    values, level = normal(8), torch.linspace(0, 1, 8)
    found = logs.by_noise("x", values, level)
    bins = [found[f"x (t {low}-{high})"] for low, high in (("0", "0.25"), ("0.25", "0.5"), ("0.5", "0.75"))]
    bins.append(found["x (t 0.75-1)"])
    assert torch.stack(bins).mean() == pytest.approx(values.mean().item(), rel=1e-5)
    shares = torch.stack(list(logs.histogram(torch.tensor([-3.0, -0.5, 0.5, 0.6])).values()))
    assert torch.equal(shares, torch.tensor([0.25, 0, 0.25, 0.5, 0, 0]))


def test_the_force_ratio_is_one_where_the_reward_pulls_as_hard_as_the_data():
    """A reward force equal to the denoising loss's own: ratio 1, cosine 1."""
    context = state(VRPO())
    context.x0_hat = context.x0 - context.t.view(-1, 1, 1, 1) * (context.prediction - context.target)
    error = context.x0 - context.x0_hat.detach()
    factor = 2 / context.t / error[0].numel()  # |x0 - x0_hat| = t |v - u|
    found = logs.of_force(error, factor, context, context.t)
    assert found["force_ratio"] == pytest.approx(1, rel=1e-5)
    assert found["force_cosine"] == pytest.approx(1, rel=1e-5)
