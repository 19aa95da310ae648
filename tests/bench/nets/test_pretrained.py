from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from bench.core.errors import UserError
from bench.nets.metric_nets import feature_net

MODEL = "vit_tiny_patch16_224"


def test_features_equal_those_of_timm_with_the_same_weights(tmp_path: Path):
    model = timm.create_model(MODEL, num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    net = feature_net(f"timm:{MODEL}", file=tmp_path / "weights.pth")
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=draw) * 255
    images = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear").byte()
    config = model.pretrained_cfg
    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", mean=config["mean"], std=config["std"], crop_pct=1.0
    )
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    with torch.no_grad():
        theirs = model(torch.stack([transform(picture) for picture in pictures]))
    ours = net(images).pooled
    assert ours.shape == (2, 192)
    # PIL rounds to 8 bits after resizing; we do not.
    assert torch.nn.functional.cosine_similarity(ours, theirs).min() > 0.999
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["timm:no_such_model", "clip:no-such/model"])
def test_an_encoder_that_its_library_does_not_know_is_refused_in_one_line(name: str):
    with pytest.raises(UserError, match=r"unknown (model|architecture)") as error:
        feature_net(name)
    assert "\n" not in str(error.value)
