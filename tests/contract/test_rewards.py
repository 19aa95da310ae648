"""The contract of rewards, for every registered one; those whose weights are absent are skipped."""

import pytest
import torch

from bench.core.errors import UserError
from bench.nets import table
from bench.nets.rewards.base import RewardBatch, RewardContext
from bench.nets.rewards.registry import CHOSEN, REWARDS, TEACHER, Rewards
from methods.base import EncoderInfo

GRID = (4, 4)
ALL = torch.arange(3)


@pytest.fixture(params=sorted(REWARDS))
def name(request) -> str:
    return request.param


@pytest.fixture
def batch() -> RewardBatch:
    draw = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 1, 8, 8, generator=draw) * 2 - 1
    return RewardBatch(x0, torch.tensor([0.2, 0.5, 1.0]), torch.tensor([0, 1, 2]))


@pytest.fixture
def estimate(batch) -> torch.Tensor:
    return batch.x0 + 0.3 * torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def reward(name, batch):
    """The reward of estimates and of the numbers of their clean images."""
    context = RewardContext(
        channels=1,
        size=8,
        to_pixels=lambda x0: x0,
        grid=GRID,
        net="digits-teacher",
        teacher=lambda: EncoderInfo("digits-teacher", 96, GRID),
        prompts=[f"the digit {number}" for number in range(10)],
        device=torch.device("cpu"),
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            bound = Rewards([name], context).bind(batch)
        bound(batch.x0, ALL)
    except UserError as missing:
        pytest.skip(f"{name}: {missing}")
    return lambda estimates, numbers=ALL: bound(estimates, numbers)[name]


def test_it_is_a_number_per_image_or_per_patch_of_every_group(reward, estimate):
    found = reward(torch.stack([estimate, 2 * estimate]))
    assert found.shape in ((2, 3), (2, 3, *GRID)) and found.dtype == torch.float32
    assert torch.isfinite(found).all()


def test_a_small_step_along_its_gradient_raises_it(reward, estimate):
    leaf = estimate.clone().requires_grad_()
    before = reward(leaf)
    (gradient,) = torch.autograd.grad(before.sum(), leaf)
    assert gradient.flatten(1).norm(dim=1).min() > 0
    step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    with torch.no_grad():
        after = reward(estimate + step)
    assert (after.flatten(1).mean(1) > before.detach().flatten(1).mean(1)).all()


def test_an_image_is_rewarded_the_same_whatever_stands_beside_it(reward, estimate):
    numbers = torch.tensor([2, 0])
    torch.testing.assert_close(
        reward(estimate[numbers], numbers), reward(estimate)[numbers], atol=1e-5, rtol=1e-5
    )


def test_its_network_is_one_that_the_table_identifies(name):
    network = REWARDS[name].network
    assert network in ("", CHOSEN, TEACHER) or table.identity(network)


def test_an_unknown_reward_is_refused_with_a_suggestion(name):
    with pytest.raises(UserError, match=f"Did you mean '{name}'"):
        Rewards([name + "x"], None)  # type: ignore[arg-type]
