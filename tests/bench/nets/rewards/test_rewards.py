"""Rewards against their formulas written out, the lpips package, and a CLIP whose answer is known."""

import types

import lpips
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from bench.core.errors import UserError
from bench.nets.local import local_net
from bench.nets.rewards.base import RewardBatch, RewardContext
from bench.nets.rewards.clip import CLIP
from bench.nets.rewards.registry import REWARDS, Rewards
from bench.nets.rewards.student import Student
from methods.base import EncoderInfo

CPU = torch.device("cpu")
SETTING = RewardContext(
    channels=1,
    size=8,
    to_pixels=lambda x0: x0,
    grid=(4, 4),
    net="digits-teacher",
    teacher=lambda: EncoderInfo("digits-teacher", 96, (4, 4)),
    prompts=["a"] * 10,
    device=CPU,
)
OFFLINE = ("x0", "velocity", "features", "tokens", "latent")  # no weights of others needed


@pytest.fixture
def truth():
    draw = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 1, 8, 8, generator=draw) * 2 - 1
    return RewardBatch(x0, torch.tensor([0.2, 0.5, 1.0]), torch.tensor([0, 1, 2]))


ALL = torch.arange(3)  # the samples of `truth`


@pytest.fixture
def estimate(truth):
    return truth.x0 + 0.3 * torch.randn(truth.x0.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", OFFLINE)
def test_nothing_is_better_than_x0_itself(name, truth, estimate):
    rewards = Rewards([name], SETTING).bind(truth)
    best = 1.0 if name in ("tokens", "latent") else 0.0
    own = rewards(truth.x0, ALL)[name]
    assert torch.allclose(own, torch.full_like(own, best), atol=1e-5)
    assert (rewards(estimate, ALL)[name] < best).all()


@pytest.mark.parametrize("name", OFFLINE)
def test_a_group_is_judged_draw_by_draw(name, truth, estimate):
    rewards = Rewards([name], SETTING).bind(truth)
    together = rewards(torch.stack([estimate, truth.x0]), ALL)[name]
    assert together.shape == (2, 3, 4, 4)
    assert torch.allclose(together[0], rewards(estimate, ALL)[name], atol=1e-6)


@pytest.mark.parametrize("name", OFFLINE)
def test_chosen_samples_are_judged_as_among_all(name, truth, estimate):
    rewards, chosen = Rewards([name], SETTING).bind(truth), torch.tensor([2, 0])
    some = rewards(estimate[chosen], chosen)[name]
    assert torch.allclose(some, rewards(estimate, ALL)[name][chosen], atol=1e-6)


def test_errors_are_mean_squares_of_patches_in_their_unit(truth, estimate):
    found = Rewards(["x0", "velocity"], SETTING).bind(truth)(estimate, ALL)
    squares = (estimate - truth.x0).square()[:, 0]
    assert torch.allclose(found["x0"][:, 1, 2], -squares[:, 2:4, 4:6].mean(dim=(1, 2)))
    assert torch.allclose(found["x0"].mean(dim=(1, 2)), -squares.mean(dim=(1, 2)))
    velocity = -squares.mean(dim=(1, 2)) / truth.scale**2
    assert torch.allclose(found["velocity"].mean(dim=(1, 2)), velocity)


def test_feature_rewards_are_lpips_without_heads_and_the_cosine_of_tokens(truth, estimate):
    found = Rewards(["features", "tokens"], SETTING).bind(truth)(estimate, ALL)
    net = local_net("digits-teacher")
    pairs = list(zip(net(estimate).maps, net(truth.x0).maps, strict=True))
    cosines = [F.cosine_similarity(a, b, dim=1).mean(dim=(1, 2)) for a, b in pairs]
    assert torch.allclose(found["tokens"].mean(dim=(1, 2)), cosines[-1], atol=1e-5)
    distance = torch.stack([2 - 2 * cosine for cosine in cosines[:-1]]).mean(dim=0)
    assert torch.allclose(found["features"].mean(dim=(1, 2)), -distance, atol=1e-5)


@pytest.mark.parametrize("name", OFFLINE)
def test_gradients_reach_the_estimate_and_nothing_else(name, truth, estimate):
    found = Rewards([name], SETTING).bind(truth)(estimate.requires_grad_(), ALL)[name]
    (gradient,) = torch.autograd.grad(found.sum(), estimate)
    assert gradient.flatten(1).norm(dim=1).min() > 0


@pytest.mark.filterwarnings("ignore::UserWarning")  # the package asks torchvision in an outdated way
def test_lpips_is_the_packages_distance(tmp_path, monkeypatch, truth, estimate):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"curl -L .*squeezenet1_1-b8a52dc0\.pth"):
        Rewards(["lpips-squeeze"], SETTING)
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    weights = torchvision.models.squeezenet1_1().state_dict()
    torch.save(weights, tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    found = Rewards(["lpips-squeeze"], SETTING).bind(truth)(estimate[None], ALL)["lpips-squeeze"]
    package = lpips.LPIPS(net="squeeze", verbose=False)
    shown = [
        F.interpolate(x.expand(-1, 3, -1, -1), (64, 64), mode="bilinear", antialias=True)
        for x in (estimate, truth.x0)
    ]
    assert torch.allclose(found[0], -package(*shown).flatten(), atol=1e-5)

    # Latents are judged by the images that they decode to, here four times smaller values.
    latents = SETTING._replace(channels=4, to_pixels=lambda z: z[:, :1] / 4)
    z0, z = (4 * x.repeat(1, 4, 1, 1) for x in (truth.x0, estimate))
    judge = Rewards(["lpips-squeeze"], latents).bind(truth._replace(x0=z0))
    of_latents = judge(z.requires_grad_(), ALL)["lpips-squeeze"]
    assert torch.allclose(of_latents, found[0], atol=1e-5)
    assert torch.autograd.grad(of_latents.sum(), z)[0][:, 0].abs().sum() > 0


class TwoPixelCLIP(nn.Module):
    """Embeds an image as its mean in two channels, and a prompt as a fixed vector."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.visual = types.SimpleNamespace(image_size=(8, 8), image_mean=(0, 0, 0), image_std=(1, 1, 1))

    def encode_image(self, images):
        return images.mean(dim=(2, 3))[:, :2]

    def encode_text(self, tokens):
        return torch.tensor([[2.0, 0.0], [0.0, 3.0]])[tokens]


def test_clip_rewards_are_cosines_with_the_image_and_the_prompt_of_its_class():
    x0 = torch.ones(2, 3, 8, 8) * torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1)  # [0, 1] units: 1, 0
    truth = RewardBatch(x0, torch.ones(2), torch.tensor([0, 1]))
    decoded = lambda x: x  # noqa: E731
    rewards = CLIP(["clip-image", "clip-text"], TwoPixelCLIP(), torch.tensor([0, 1]), decoded).bind(truth)
    found = rewards(torch.ones(1, 2, 3, 8, 8))  # embedded as (1, 1)
    half = torch.full((1, 2), 0.5**0.5)
    assert torch.allclose(found["clip-image"], half) and torch.allclose(found["clip-text"], half)
    assert torch.allclose(rewards(x0[None])["clip-text"], torch.tensor([[1.0, 0.0]]), atol=1e-6)


def test_an_unknown_reward_is_named():
    with pytest.raises(UserError, match="tokens"):
        Rewards(["token"], SETTING)
    assert set(OFFLINE) < set(REWARDS)


def test_the_student_learns_its_teacher_and_continues_from_its_state():
    draw = torch.Generator().manual_seed(0)
    x0 = torch.randn(32, 1, 8, 8, generator=draw)
    teacher = torch.randn(96, 4, generator=draw)
    tokens = F.unfold(x0, 2, stride=2).transpose(1, 2) @ teacher.T  # a linear map of patches
    torch.manual_seed(0)
    student, resumed = (Student(1, 8, (4, 4), 96, CPU) for _ in range(2))
    first = last = student.learn(x0, tokens)
    for _ in range(100):
        last = student.learn(x0, tokens)
    assert last < 0.5 * first
    resumed.load_state({name: value.clone() for name, value in student.state().items()})
    assert [student.learn(x0, tokens) for _ in range(3)] == [resumed.learn(x0, tokens) for _ in range(3)]
