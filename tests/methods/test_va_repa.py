"""VA-REPA's weights and loss against the released code."""

import pytest
import torch

from methods.base import BackboneInfo
from methods.repa import REPA
from methods.va_repa import VAREPA
from tests.helpers.official import T, Y, Z, agree, built, features, step, weighted

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))
TIMES = torch.tensor([0.1, 0.5, 0.65, 0.7, 0.75, 0.9], dtype=torch.float64)


def aligned(method, **fields):
    method = built(method, BACKBONE)
    method.projectors[0] = torch.nn.Identity()
    (loss,) = method.losses(step(hidden={4: Z}, features={"teacher": features(Y)}, **fields)).values()
    return loss


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "hard"}, [1, 1, 1, 0, 0, 0]),
        ({"schedule": "hard-high"}, [0, 0, 0, 1, 1, 1]),
        ({}, [0.9999938558, 0.9820137900, 0.7310585786, 0.5, 0.2689414214, 0.0179862100]),
        ({"schedule": "cosine", "tau": 0.7}, [0.9504844340, 0.1882550991, 0.0125360439, 0, 0, 0]),
        (
            {"schedule": "snr"},
            [0.9977375566, 0.8448275862, 0.6121876594, 0.5, 0.3769230769, 0.0629820051],
        ),
        (
            {"schedule": "cosine"},  # a tau of its own
            [0.9662361147, 0.3631685050, 0.1304955414, 0.0748914321, 0.0337638853, 0],
        ),
    ],
)
def test_the_released_weights(options, expected):
    agree(VAREPA(**options).timestep_weight(TIMES), expected)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("hard", -0.1407100551),
        ("cosine", -0.1407100551),
        ("sigmoid", -0.1196284260),
        ("snr", -0.1130824454),
    ],
)
def test_the_released_loss(schedule, expected):
    loss = aligned(VAREPA(schedule=schedule, tau=0.7, weight=1.0))
    agree(weighted(loss), expected)
    agree(loss.value.mean(), -0.0909803577)  # raw, REPA's


def test_weights_average_to_one_over_the_whole_step():
    agree(aligned(VAREPA(weight=1.0)).weight, [1.5760756615, 0.4239243385])
    agree(aligned(VAREPA(schedule="snr", weight=1.0)).weight, [1.4444444444, 0.5555555556])
    state = step()
    state.share.batch_size, state.share.noise_level = 4, torch.cat([T, T])  # half of a batch of two such
    halves = aligned(VAREPA(weight=1.0), share=state.share)
    agree(halves.weight, [1.5760756615, 0.4239243385])


def test_equal_weights_are_repa_and_no_weight_at_all_is_nothing():
    agree(weighted(aligned(VAREPA(sharpness=0.0))), weighted(aligned(REPA())))
    late = torch.full((2,), 0.9, dtype=torch.float64)
    agree(aligned(VAREPA(schedule="hard"), t=late).weight, [0.0, 0.0])
    with pytest.raises(ValueError, match="tau=1"):
        built(VAREPA(tau=1.0), BACKBONE)
