"""`digits`, the embedded data set: 1,797 handwritten digits, 8x8 pixels, one channel, 10 classes.

They ship with scikit-learn (the test part of UCI's "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, 1998): real images, no download. The split is fixed and stratified: 1,197 are
trained on, 600 are the reference that samples are compared with.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bench.data.in_memory import InMemory

REFERENCE_IMAGES = 600


def load() -> InMemory:
    """Pixels in [-1, 1], [1, 8, 8]; nothing to download."""
    scans, classes = load_digits(return_X_y=True)
    # The scans hold 0..16; the images are their nearest levels of 0..255.
    images = torch.from_numpy(scans / 16 * 255).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(classes).long()
    train, reference = train_test_split(
        range(len(labels)), test_size=REFERENCE_IMAGES, stratify=labels, random_state=0
    )
    return InMemory(images[train], labels[train], (images[reference], labels[reference]), classes=10)
