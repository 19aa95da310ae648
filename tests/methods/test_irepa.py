"""iREPA against its released loss, and the reductions to REPA's."""

import pytest
import torch

from methods.base import BackboneInfo
from methods.irepa import IREPA
from methods.parts.distances import cosine, spatial_norm
from methods.parts.projectors import TokenConvolution
from tests.helpers.official import agree, built, features, r, step, weighted

BACKBONE = BackboneInfo("sit", 12, 3, (4, 4))


def convolution():
    projector = TokenConvolution(3, 5, (4, 4), kernel=3).double()
    projector.convolution.weight.data = r((5, 3, 3, 3), 19)
    projector.convolution.bias.data = r((5,), 23)
    return projector


def test_the_convolution_of_the_released_code():
    output = convolution()(r((2, 16, 3), 13))
    agree(output.sum(), -4.3230949091)
    agree(output[0, 0, 0], -0.4871399724)
    agree(output[1, 5, 2], -0.1764533957)


@pytest.mark.parametrize(
    ("gamma", "first", "squares"),
    [
        (0.6, -1.5882586732, 150.3744532490),
        (0.8, -1.5524201450, 150.0928541706),
        (1.0, -1.5165816169, 149.9989878112),
    ],
)
def test_the_normalisation_of_the_released_code(gamma, first, squares):
    found = spatial_norm(r((2, 16, 5), 17), gamma)
    agree(found[0, 0, 0], first)
    agree(found.square().sum(), squares)


@pytest.mark.parametrize(
    ("gamma", "expected"), [(0.6, -0.0612717687), (0.8, -0.0554303720), (1.0, -0.0495100981)]
)
def test_the_released_loss(gamma, expected):
    method = built(IREPA(gamma=gamma), BACKBONE)
    method.projectors[0] = convolution()
    hidden, target = {4: r((2, 16, 3), 13)}, {"teacher": features(r((2, 16, 5), 17))}
    (loss,) = method.losses(step(hidden=hidden, features=target)).values()
    agree(loss.value.mean(), expected)
    agree(weighted(loss), expected)  # the released weight is 1
    raw = -cosine(convolution()(r((2, 16, 3), 13)), r((2, 16, 5), 17))
    agree(raw.mean(), -0.0787597252)  # without the normalisation


def test_a_kernel_of_one_is_a_linear_map_and_other_options_are_refused():
    method = built(IREPA(kernel=1), BACKBONE)
    tokens = r((2, 16, 3), 13)
    layer = method.projectors[0].convolution
    expected = tokens @ layer.weight[:, :, 0, 0].T + layer.bias
    assert torch.allclose(method.projectors[0](tokens), expected)
    with pytest.raises(ValueError, match="kernel=2"):
        built(IREPA(kernel=2), BACKBONE)
    with pytest.raises(ValueError, match="one token"):
        built(IREPA(), BackboneInfo("sit", 12, 3, (1, 1)))
    assert list(built(IREPA(weight=0.0), BACKBONE).parameters()) == []
