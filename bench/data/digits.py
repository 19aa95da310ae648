"""`digits`, the embedded data set: 1,797 handwritten digits, 8x8 pixels, one channel, 10 classes.

They are the test part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998),
as scikit-learn ships them: real images, no download. The split is fixed and stratified: 1,197 are trained on,
600 are the reference that samples are compared with.

Images, labels and split lie next to this file, because importing scikit-learn takes as long as importing
torch, in every process of a run. `python -m bench.data.digits` writes that file anew.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.data.in_memory import InMemory

REFERENCE_IMAGES = 600
SHIPPED = Path(__file__).with_name("digits.safetensors")


def load() -> InMemory:
    """Pixels in [-1, 1], [1, 8, 8]; nothing to download."""
    parts = load_file(SHIPPED)
    reference = parts["reference_images"], parts["reference_labels"].long()
    return InMemory(parts["images"], parts["labels"].long(), reference, classes=10)


def from_scikit_learn() -> dict[str, Tensor]:
    """Images [N, 1, 8, 8] and labels [N] to train on and of the reference, uint8."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans, classes = load_digits(return_X_y=True)
    # The scans hold 0..16; the images are their nearest levels of 0..255.
    images = torch.from_numpy(scans / 16 * 255).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(classes).to(torch.uint8)
    train, reference = train_test_split(
        range(len(labels)), test_size=REFERENCE_IMAGES, stratify=labels, random_state=0
    )
    return {
        "images": images[train],
        "labels": labels[train],
        "reference_images": images[reference],
        "reference_labels": labels[reference],
    }


if __name__ == "__main__":
    save_file(from_scikit_learn(), SHIPPED)
