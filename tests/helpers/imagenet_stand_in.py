"""A stand-in for ImageNet-256 and the published networks, so that the whole road can be walked anywhere.

    python tests/helpers/imagenet_stand_in.py FOLDER [ARCHIVE]

writes FOLDER/train/CLASS/*.jpg, FOLDER/vae and FOLDER/dinov2-s: 1,000 classes of images of 256 pixels and up,
a random autoencoder of the shape of Stable Diffusion's, and a random DINOv2-S, in the hub's formats. Images
are those of the zip ARCHIVE, enlarged, or smooth noise. It tests the plumbing: no number means anything.
"""

import io
import sys
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.sources_on_disk import tiny_vae

CLASSES, SIZE = 1000, (288, 256)


def make(folder, archive=None, per_class=1, classes=CLASSES):
    """Everything below `folder`."""
    for number, image in enumerate(islice(_images(archive), classes * per_class)):
        place = folder / "train" / f"n{number % classes:08d}"
        place.mkdir(parents=True, exist_ok=True)
        image.resize(SIZE, Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=90)
    tiny_vae(folder / "vae", halvings=3, scale=0.18215, width=2)
    random_dinov2(folder / "dinov2-s")


def _images(archive):
    if archive is None:
        draw = np.random.default_rng(0)
        while True:
            yield Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if name.startswith("train/"):
                yield Image.open(io.BytesIO(content.read(name)))


def random_dinov2(folder):
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("vit_small_patch14_dinov2.lvd142m", img_size=224)
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")


if __name__ == "__main__":
    make(Path(sys.argv[1]), *sys.argv[2:3], per_class=2)
