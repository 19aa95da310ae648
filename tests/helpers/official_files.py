"""Files as the official code of SiT, REPA and DiT saves them, with random weights."""

import pytest
import torch

from backbones import SIZES, checkpoints
from tests.helpers import official_forward

CLASSES = 10
FAMILIES = ("sit", "repa", "dit")
# The families' files as they are published: only REPA's have no second half of the outputs.
VARIANCE = {"sit": True, "repa": False, "dit": True}


def official_shapes(name, **options):
    size, patch = name.split("/")
    depth, width, _ = SIZES[size]
    return official_forward.shapes(depth, width, patch=int(patch), **options)


def official_state(name="ti/2", **options):
    return official_forward.random_state(
        official_shapes(name, **{"input_size": 8, "classes": CLASSES} | options)
    )


def write(path, content):
    torch.save(content, path)
    return path


def random_input(input_size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 4, input_size, input_size, generator=generator)
    return x, torch.tensor([0.0, 0.04, 0.3, 0.5, 0.999, 1.0]), torch.tensor([0, 10, 3, 9, 10, 1])


def assert_close(ours, official):
    assert (ours - official).abs().max() < 1e-5 * official.abs().max()


def refusal(path, family=None):
    """The message, which is one line and names the file."""
    with pytest.raises(ValueError) as raised:
        checkpoints.weights(path, family)
    message = str(raised.value)
    assert "\n" not in message and str(path) in message
    return message
