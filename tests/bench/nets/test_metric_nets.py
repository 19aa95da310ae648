import pytest
import torch
import torch.nn.functional as F

from bench.core.errors import UserError
from bench.data import datasets
from bench.nets.local import local_net
from bench.nets.metric_nets import feature_net, feature_nets


def noise_images(count: int, channels: int, size: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, size, size), generator=draw, dtype=torch.uint8)


def test_pixels_are_the_image():
    images = noise_images(3, 1, 8)
    assert torch.equal(feature_net("pixels")(images).pooled, images.reshape(3, 64) / 255)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 256)])
def test_random_features_have_one_dimension_whatever_the_images(channels: int, size: int):
    features = feature_net("random-conv")(noise_images(2, channels, size)).pooled
    assert features.shape == (2, 128)
    assert features.dtype == torch.float32
    assert features.isfinite().all() and features.std() > 0


def test_random_features_are_the_same_in_every_process():
    torch.manual_seed(123)
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).view(1, 1, 8, 8)
    features = feature_net("random-conv")(ramp).pooled[0]
    pinned = torch.tensor([0.481855, 0.315337, 0.455246, 0.121149, 0.386791, 0.322647])
    torch.testing.assert_close(features[:6], pinned, rtol=1e-4, atol=1e-6)


def test_grey_images_are_seen_as_coloured_ones_of_equal_channels():
    grey = noise_images(4, 1, 16)
    net = feature_net("random-conv")
    torch.testing.assert_close(net(grey).pooled, net(grey.repeat(1, 3, 1, 1)).pooled)


def test_the_metric_net_of_the_digits_classifies_them():
    images, labels = datasets.get("digits").open().reference()
    seen = feature_net("digits-cnn")(images)
    assert seen.logits is not None
    assert (seen.logits.argmax(1) == labels).float().mean() >= 0.97
    torch.testing.assert_close(
        seen.logits, F.linear(seen.pooled, *local_net("digits-cnn").classifier.parameters())
    )


def test_an_unknown_net_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'inception'"):
        feature_net("incepton")


def test_a_net_without_weight_files_takes_none(tmp_path):
    with pytest.raises(UserError, match="takes no file"):
        feature_net("pixels", file=tmp_path / "x.pth")


def test_a_network_that_is_named_twice_counts_once():
    """The numbers are those of the network named once: no image is counted twice."""
    from bench.evaluation.scorer import Scorer

    images, reference = noise_images(40, 3, 8), noise_images(50, 3, 8).flip(0)
    results = []
    for names in (["random-conv"], ["random-conv", "random-conv"]):
        scorer = Scorer(feature_nets(names), reference)
        scorer.update(images)
        results.append(scorer.results())
    assert results[0] == results[1]
