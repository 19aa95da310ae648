"""REPA's loss against its formula written out, and the published projector sizes."""

import pytest
import torch

from methods.base import BackboneInfo, Context, EncoderInfo, Features
from methods.parts.distances import cosine
from methods.repa import REPA
from tests.helpers.official import Returns, Y, Z, agree, built, features, r, step


@pytest.mark.parametrize(("blocks", "width", "expected"), [(12, 768, 4), (24, 1024, 8), (28, 1152, 8)])
def test_paper_depths_and_projector_sizes(blocks, width, expected):
    """Appendix G: depth 4 for B, 8 for L and XL. 7.3 M, 7.9 M, 8.1 M projector parameters for DINOv2-B."""
    method = REPA()
    method.build(BackboneInfo("sit", blocks, width, (16, 16)), lambda name: EncoderInfo(name, 768, (16, 16)))
    assert method.alignment_depth == expected
    count = sum(parameter.numel() for parameter in method.parameters())
    assert count == (width + 1) * 2048 + 2049 * 2048 + 2049 * 768
    assert round(count / 1e6, 1) == {768: 7.3, 1024: 7.9, 1152: 8.1}[width]


def test_cosine_is_the_mean_over_tokens_of_normalised_products():
    tokens, target = torch.randn(2, 3, 5, 7, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    products = torch.einsum("bnd,bnd->bn", tokens, target)
    expected = (products / tokens.norm(dim=2) / target.norm(dim=2)).mean(dim=1)
    assert torch.allclose(cosine(tokens, target), expected, atol=1e-6)


def test_a_depth_outside_the_backbone_and_another_grid_are_refused():
    info = BackboneInfo("sit", 6, 96, (4, 4))
    with pytest.raises(ValueError, match=r"depth=7 .* 1\.\.6"):
        REPA(depth=7).build(info, lambda name: EncoderInfo(name, 96, (4, 4)))
    with pytest.raises(ValueError, match=r"\(2, 2\) tokens"):
        REPA().build(info, lambda name: EncoderInfo(name, 96, (2, 2)))


def test_several_encoders_have_a_projector_each_and_share_the_weight():
    widths, random = {"dino": 8, "clip": 5}, torch.Generator().manual_seed(0)
    method = REPA(encoder="dino+clip", weight=0.7)
    method.build(BackboneInfo("sit", 6, 12, (2, 2)), lambda name: EncoderInfo(name, widths[name], (2, 2)))
    assert method.needs(0, 10).encoders == ("dino", "clip")
    assert REPA(encoder="a[weights=x+y.pt]+b").encoders == ("a[weights=x+y.pt]", "b")
    hidden = torch.randn(3, 4, 12, generator=random)
    targets = {name: torch.randn(3, 4, width, generator=random) for name, width in widths.items()}
    nothing = torch.zeros(3, 1, 4, 4)
    context = Context(
        *[nothing] * 2, torch.zeros(3), *[nothing] * 4, torch.ones(3), torch.zeros(3), 0, 10, random,
        hidden={2: hidden},
        features={name: Features(target, target.mean(dim=1)) for name, target in targets.items()},
    )  # fmt: skip
    (loss,) = method.losses(context).values()
    expected = torch.zeros(3)
    for phi, target in zip(method.projectors, targets.values(), strict=True):
        unit, aim = (x / x.norm(dim=-1, keepdim=True) for x in (phi(hidden), target))
        expected -= (unit * aim).sum(dim=-1).mean(dim=-1) / 2
    assert torch.allclose(loss.value, expected, atol=1e-6) and loss.weight == 0.7


def test_the_released_loss():
    """REPA's released code on fixed inputs, with the projectors taken out; the gradient by its formula."""
    backbone = BackboneInfo("sit", 12, 6, (2, 2))
    method = built(REPA(), backbone)
    method.projectors[0] = torch.nn.Identity()
    student = Z.clone().requires_grad_()
    (loss,) = method.losses(step(hidden={4: student}, features={"teacher": features(Y)})).values()
    agree(loss.value[0], -0.1407100551)
    agree(loss.value[1], -0.0412506604)
    loss.value.mean().backward()
    agree(student.grad.norm(), 0.4146784215)
    agree(student.grad.flatten()[:3], [0.0190134436, 0.0223121615, 0.0256108794])

    both = built(REPA(encoder="a+b"), backbone)
    other, its_student = r((2, 4, 5), 29), r((2, 4, 5), 23)
    both.projectors[0], both.projectors[1] = Returns(Z), Returns(its_student)
    seen = {"a": features(Y), "b": features(other)}
    (loss,) = both.losses(step(hidden={4: Z}, features=seen)).values()
    agree(loss.value.mean(), -0.0611551858)
