"""Small sources of images and a tiny VAE, as a user has them on disk, and what is made of them."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from bench import prepare as command
from bench.core import grammar
from bench.data import datasets
from bench.data.containers import open_container
from bench.data.layout import understand

CLASSES = ("cat", "dog", "eel")


def image_folder(folder, count=12, size=(40, 32), parts=("train", "test")):
    """PART/CLASS/NNNN.png with random pixels, `count` images of each class in each part."""
    draw = np.random.default_rng(0)
    for part in parts:
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number:04d}.png")
    return folder


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return path


def tarred(folder, path):
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname="data")
    return path


def tiny_vae(folder, seed=0, halvings=1, channels=4, scale=0.5, width=8):
    """A random AutoencoderKL in the hub's format."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(width,) * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        latent_channels=channels,
        norm_num_groups=width // 2,
        scaling_factor=scale,
    )
    vae.save_pretrained(folder)
    return vae.eval()


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "png")
    return content.getvalue()


def tree(root, *files):
    """Files by name: images have some bytes of one, since nothing is decoded here."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return root


def understood(root):
    """The layout of a folder or archive."""
    return understand(open_container(root))


def labels(found, part="train"):
    """Key -> class, of a layout."""
    return {member.key: found.classes[member.label] for member in found.parts.get(part, ())}


def prepare(source, out, size=32, **recipe):
    """A store of the images of a source, in one process."""
    command.prepare(str(source), out, command.Recipe(size=size, **recipe), workers=1)
    return out


def load(store, **options):
    """The records of a store, as a run opens them."""
    return datasets.get(grammar.join("folder", {"path": store, **options})).open()
