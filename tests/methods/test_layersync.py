"""LayerSync against its released loss; only the early block is pulled."""

import pytest

from methods.base import BackboneInfo
from methods.layersync import LayerSync
from tests.helpers.official import Y, Z, agree, built, step


@pytest.mark.parametrize(("blocks", "early", "late"), [(28, 8, 16), (24, 8, 18), (12, 4, 8), (4, 2, 3)])
def test_published_blocks(blocks, early, late):
    method = built(LayerSync(), BackboneInfo("sit", blocks, 6, (2, 2)))
    assert method.needs(0, 10).hidden_depths == (early, late)


def test_the_released_loss_and_where_its_gradient_goes():
    method = built(LayerSync(), BackboneInfo("sit", 12, 6, (2, 2)))
    early, late = Z.clone().requires_grad_(), Y.clone().requires_grad_()
    (loss,) = method.losses(step(hidden={4: early, 8: late})).values()
    agree(loss.value.mean(), -0.0909803577)
    assert loss.weight == 0.2
    agree(loss.value[0], -0.1407100551)
    agree(loss.value[1], -0.0412506604)
    loss.value.mean().backward()
    assert late.grad is None
    agree(early.grad.norm(), 0.4146784215)
    agree(early.grad.flatten()[0], 0.0190134436)


def test_a_target_that_is_not_deeper_is_refused():
    for depth, target in ((5, 5), (9, 0)):
        with pytest.raises(ValueError, match="must be deeper"):
            built(LayerSync(depth=depth, target_depth=target), BackboneInfo("sit", 12, 6, (2, 2)))
    with pytest.raises(ValueError, match="target_depth=13"):
        built(LayerSync(target_depth=13), BackboneInfo("sit", 12, 6, (2, 2)))


def test_without_weight_nothing_is_captured():
    method = built(LayerSync(weight=0.0), BackboneInfo("sit", 12, 6, (2, 2)))
    assert method.needs(0, 10).hidden_depths == () and method.losses(step()) == {}
