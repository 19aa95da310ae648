"""VRPO against closed forms: unit forces, the group's constant c_G, and exact reductions."""

import math

import pytest
import torch

from bench.core import grammar
from methods.base import Context
from methods.vrpo import VRPO
from methods.vrpo_terms.forces import norm_by_region, pathwise, score, standardise, trusted

P = (1, 4, 4)  # an image


def context(rewards, batch=3, seed=0, t=0.5):
    draw = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, batch, *P, generator=draw)
    times = torch.full((batch,), t)
    return Context(
        x0=x0,
        noise=noise,
        t=times,
        x_t=(1 - t) * x0 + t * noise,
        target=noise - x0,
        prediction=torch.zeros_like(x0),
        x0_hat=x0 + 0.3 * noise,
        x0_hat_scale=times,
        label=torch.zeros(batch, dtype=torch.long),
        step=0,
        steps=100,
        generator=draw,
        rewards=lambda estimate, _index: rewards(estimate),
    )


def linear(direction):
    """A reward whose gradient is known: <direction, x>."""
    return lambda x: {"tokens": (x * direction).flatten(-3).sum(-1)}


def unit_force(state, **options):
    defaults = {"normalised": True, "per_patch": False, "shuffle": False}
    return pathwise(state, torch.arange(len(state.t)), {"tokens": 1.0}, **defaults | options).force


def group_force(state, **options):
    defaults = {"group_size": 8, "spread": 0.1, "per_patch": False, "shuffle": False}
    return score(state, torch.arange(len(state.t)), {"tokens": 1.0}, **defaults | options).force


def test_pathwise_force_is_the_unit_gradient():
    direction = torch.randn(P, generator=torch.Generator().manual_seed(1))
    force = unit_force(context(linear(direction)))
    assert torch.allclose(force, (direction / direction.norm()).expand_as(force), atol=1e-6)


def test_pathwise_raw_is_the_gradient_of_the_weighted_reward():
    state = context(lambda x: {"tokens": x.pow(3).flatten(-3).sum(-1)})
    method = VRPO(weight=0.0, perceptual=0.0, semantic=2.0, estimator="pathwise-raw", strength=1.0)
    state.x0_hat.requires_grad_()
    loss = method.losses(state)["reward"]
    (loss.weight * loss.value).sum().backward()
    assert torch.allclose(state.x0_hat.grad, -2 * 3 * state.x0_hat.detach().square(), rtol=1e-4)


@pytest.mark.parametrize("group_size", [4, 8, 16])
@pytest.mark.parametrize("per_patch", [False, True])
def test_mean_of_many_score_groups_is_the_pathwise_force_times_its_constant(group_size, per_patch):
    """E[A_j e_j] = c_G grad r/|grad r| with c_G = (G-1)/G E[sample deviation of G unit normals].

    For A standardised by the group's sample deviation, sum_j A_j e_j along the gradient is
    (G-1) * deviation, so c_G = (G-1)/G * c4(G), c4 the textbook constant. Per patch the same holds in
    every patch, for rewards that depend on their patch alone.
    """
    direction = torch.randn(P, generator=torch.Generator().manual_seed(1))
    reward = patches_of(direction) if per_patch else linear(direction)
    state = context(reward, batch=4096)
    found = group_force(state, group_size=group_size, spread=0.01, per_patch=per_patch).mean(0)
    limit = unit_force(state, per_patch=per_patch)[0]
    c4 = math.sqrt(2 / (group_size - 1)) * math.gamma(group_size / 2) / math.gamma((group_size - 1) / 2)
    expected = (group_size - 1) / group_size * c4
    assert limit.norm() == pytest.approx(1, abs=1e-5)
    assert torch.cosine_similarity(found.flatten(), limit.flatten(), dim=0) > 0.99
    assert (found * limit).sum() == pytest.approx(expected, rel=0.03)
    assert expected == pytest.approx({4: 0.69, 8: 0.84, 16: 0.92}[group_size], abs=0.01)


def patches_of(direction):
    """The reward <direction, x> by patches of 2 x 2: a map [..., 2, 2]."""
    pool = torch.nn.AvgPool2d(2)
    return lambda x: {"tokens": pool((x * direction).sum(-3).flatten(0, -3)).view(*x.shape[:-3], 2, 2)}


def test_per_patch_forces_have_equal_length_in_every_patch():
    direction = torch.randn(P, generator=torch.Generator().manual_seed(1))
    force = unit_force(context(patches_of(direction)), per_patch=True)
    corners = force[:, 0].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).norm(dim=3)
    assert torch.allclose(corners, torch.full_like(corners, 0.5), atol=1e-6)
    assert torch.allclose(force.flatten(1).norm(dim=1), torch.ones(3), atol=1e-6)


def test_the_length_of_a_patch_is_taken_over_all_of_its_channels():
    image = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    length = norm_by_region(image, torch.Size((2, 2)))
    expected = image[0].unfold(1, 2, 2).unfold(2, 2, 2).square().sum((0, 3, 4)).sqrt()
    assert torch.allclose(length[0], expected, rtol=1e-5)


def test_groups_are_drawn_with_the_spread_of_the_estimates_error():
    """Standard deviation `spread` times x0_hat's error, which is t for a straight path."""
    seen = []
    reward = linear(torch.ones(P))
    state = context(lambda x: seen.append(x) or reward(x), batch=500, t=0.25)
    group_force(state, spread=0.1)
    drawn = torch.cat([x.reshape(-1, *state.x0_hat.shape) for x in seen])
    assert (drawn - state.x0_hat).std() == pytest.approx(0.1 * 0.25, rel=0.05)


@pytest.mark.parametrize("per_patch", [False, True])
def test_a_raw_force_of_patches_is_the_gradient_of_their_mean(per_patch):
    direction = torch.randn(P, generator=torch.Generator().manual_seed(1))
    found = unit_force(context(patches_of(direction)), normalised=False, per_patch=per_patch)
    assert torch.allclose(found, (direction / 4 / 4).expand_as(found), atol=1e-6)  # of 4 patches of 4 pixels


@pytest.mark.parametrize("force", [unit_force, group_force])
@pytest.mark.parametrize("per_patch", [False, True])
def test_a_constant_reward_gives_no_force_and_no_nan(force, per_patch):
    constant = lambda x: {"tokens": 0 * x[..., 0, ::2, ::2] + 0.3}  # noqa: E731
    found = force(context(constant), per_patch=per_patch)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("force", [unit_force, group_force])
def test_forces_ignore_the_scale_and_offset_of_a_reward(force):
    reward = linear(torch.randn(P, generator=torch.Generator().manual_seed(1)))
    other = lambda x: {"tokens": 3.5 * reward(x)["tokens"] - 2}  # noqa: E731
    assert torch.allclose(force(context(reward)), force(context(other)), atol=1e-5)


def test_advantages_ignore_scale_offset_and_order():
    rewards = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(standardise(3.5 * rewards - 2), standardise(rewards))
    assert torch.allclose(standardise(rewards[order]), standardise(rewards)[order])
    assert torch.allclose(standardise(rewards).std(dim=0), torch.ones(5, dtype=torch.float64))


def test_shuffled_forces_belong_to_other_samples():
    reward = lambda x: {"tokens": x.square().flatten(-3).sum(-1)}  # noqa: E731
    own, other = (unit_force(context(reward, batch=16), shuffle=shuffle) for shuffle in (False, True))
    assert not torch.allclose(own, other)
    by_first_value = lambda x: x[x[:, 0, 0, 0].argsort()]  # noqa: E731
    assert torch.equal(by_first_value(own), by_first_value(other))


def test_the_force_on_the_velocity_is_flat_in_t():
    """For x0_hat = x_t - t v the loss has the gradient F/sqrt(P) in v at every t."""
    direction = torch.randn(P, generator=torch.Generator().manual_seed(1))
    for t in (0.05, 0.3, 0.65):
        state = context(linear(direction), t=t)
        velocity = torch.zeros_like(state.x0).requires_grad_()
        state.x0_hat = state.x_t - t * velocity
        method = VRPO(weight=0.0, perceptual=0.0, strength=1.0)
        loss = method.losses(state)["reward"]
        (loss.weight * loss.value).sum().backward()
        expected = direction / direction.norm() / math.sqrt(direction.numel())
        assert torch.allclose(velocity.grad, expected.expand_as(velocity.grad), atol=1e-6)


def of_velocity(state, t, **options):
    """Gradients of reward term and denoising loss of each sample in the velocity, with x0_hat = x_t - t v."""
    velocity = torch.full_like(state.x0, 0.3).requires_grad_()
    state.prediction, state.x0_hat = velocity, state.x_t - t * velocity
    loss = VRPO(weight=0.0, perceptual=0.0, **options).losses(state)["reward"]
    denoising = (velocity - state.target).square().flatten(1).mean(1)
    reward = torch.autograd.grad((loss.weight * loss.value).sum(), velocity)[0]
    return reward, torch.autograd.grad(denoising.sum(), velocity)[0]


def test_a_relative_force_is_a_multiple_of_the_denoising_force():
    direction = torch.randn(P, generator=torch.Generator().manual_seed(1))
    state = context(linear(direction))
    reward, denoising = of_velocity(state, 0.5, relative=True, strength=3.0)
    assert torch.allclose(reward.flatten(1).norm(dim=1), 3 * denoising.flatten(1).norm(dim=1))


def test_a_force_counts_as_far_as_it_agrees_with_the_direction_to_the_data():
    towards = torch.tensor([[3.0, 4.0]] * 4)
    force = torch.tensor([[3.0, 4.0], [4.0, -3.0], [-3.0, -4.0], [0.0, 2.0]])
    expected = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.6]])  # cosines 1, 0, -1, 0.8
    assert torch.allclose(trusted(force, towards), expected, atol=1e-6)
    state = context(linear(torch.ones(P)))
    away = state.x0 - (state.x_t - 0.5 * torch.full_like(state.x0, 0.3))
    against = context(linear(-away[0]), batch=1)
    against.x0, against.x_t = state.x0[:1], state.x_t[:1]
    assert of_velocity(against, 0.5, agreement=True)[0].abs().max() == 0


def test_options_added_later_leave_the_identity_of_runs_as_it_was():
    _, before = grammar.split(grammar.resolved("vrpo", VRPO()))
    _, now = grammar.split(grammar.resolved("vrpo", VRPO(t_min=0.5)))
    assert not {*VRPO.added} & {*before} and now == before | {"t_min": "0.5"}


def test_rewards_act_below_t_max_and_end_with_training():
    direction = torch.ones(P)
    method = VRPO(weight=0.0, perceptual=0.0, t_max=0.7, warm_up=0.2, anneal_from=0.7)
    late = context(linear(direction), t=0.71)
    assert method.losses(late)["reward"].value.eq(0).all()
    below = context(linear(direction), t=0.69)
    below.step = 50
    acting = method.losses(below)["reward"]
    assert acting.weight == method.strength and acting.value.ne(0).all()
    below.step = 85
    assert method.losses(below)["reward"].weight == pytest.approx(0.5 * method.strength)
    assert [round(method.schedule(step, 100), 6) for step in (0, 9, 19, 70, 85, 100)] == [
        0.05, 0.5, 1, 1, 0.5, 0,
    ]  # fmt: skip


def test_rewards_that_end_before_training_cost_nothing_afterwards():
    method = VRPO(perceptual=0.0, anneal_from=0.4, reward_until=0.6, shuffle=True)
    assert [round(method.schedule(step, 100), 6) for step in (0, 40, 50, 55, 60, 99)] == [
        1,
        1,
        0.5,
        0.25,
        0,
        0,
    ]
    assert VRPO(anneal_from=0.4, reward_until=0.4).schedule(39, 100) == 1
    assert VRPO(anneal_from=0.4, reward_until=0.4).schedule(40, 100) == 0
    during, afterwards = method.needs(59, 100), method.needs(60, 100)
    assert (during.rewards, during.whole_batch) == (("tokens",), True)
    assert (afterwards.rewards, afterwards.whole_batch) == ((), False)
    state = context(linear(torch.ones(P)))
    state.step = 60
    assert "reward" not in VRPO(weight=0.0, perceptual=0.0, anneal_from=0.4, reward_until=0.6).losses(state)


def test_rewards_act_on_a_band_of_noise_levels_and_are_computed_for_it_alone():
    judged = []
    reward = linear(torch.ones(P))
    method = VRPO(weight=0.0, perceptual=0.0, t_min=0.3, t_max=0.7)
    state = context(reward, batch=4)
    state.rewards = lambda x, index: judged.append(index) or reward(x)
    state.noise_level = state.share.noise_level = torch.tensor([0.29, 0.3, 0.69, 0.7])
    found = method.losses(state)["reward"].value
    assert found.ne(0).tolist() == [False, True, True, False] and judged[0].tolist() == [1, 2]


def test_a_share_of_the_samples_carries_the_force_of_all():
    """With share 1/2 half of the acting samples are pulled, twice as hard; the others are not computed."""
    judged = []
    reward = linear(torch.ones(P))
    losses = {}
    for share in (1.0, 0.5):
        state = context(reward, batch=8)
        state.rewards = lambda x, index: judged.append(index) or reward(x)
        losses[share] = VRPO(weight=0.0, perceptual=0.0, share=share).losses(state)["reward"]
    assert [len(index) for index in judged] == [8, 4]
    all_, half = (losses[share].weight * losses[share].value for share in (1.0, 0.5))
    assert torch.allclose(half[:4], 2 * all_[:4]) and half[4:].eq(0).all()


def test_the_kl_of_policy_and_reference_is_flow_matching_plus_repa():
    """KL = |v - u|^2/(2 s^2) + kappa A(kappa) sum_n (1 - mu_n . y_n), against numerical KLs.

    The Gaussian's by torch.distributions; a von Mises' (the von Mises-Fisher on the circle, where
    A = I_1/I_0) by a sum over the circle.
    """
    draw = torch.Generator().manual_seed(0)
    x0, noise, velocity = torch.randn(3, 6, dtype=torch.float64, generator=draw)
    t, s = 0.4, 0.1
    x_t, target = (1 - t) * x0 + t * noise, noise - x0
    policy = torch.distributions.Normal(x_t - t * velocity, s * t)
    reference = torch.distributions.Normal(x0, s * t)
    image = torch.distributions.kl_divergence(policy, reference).sum()
    assert image == pytest.approx(((velocity - target).square().sum() / (2 * s**2)).item())

    kappa, mu, y = 3.0, 0.3, 1.7  # a concentration and two angles
    circle = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[:-1]
    log_p, log_q = (torch.log_softmax(kappa * torch.cos(circle - angle), 0) for angle in (mu, y))
    numerical = (log_p.exp() * (log_p - log_q)).sum()
    order_0, order_1 = torch.special.i0(torch.tensor(kappa)), torch.special.i1(torch.tensor(kappa))
    identity = kappa * (order_1 / order_0) * (1 - math.cos(mu - y))
    assert numerical == pytest.approx(identity.item(), rel=1e-5)
