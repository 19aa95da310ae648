"""Images read back from a sample grid equal those written to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.runs import sample_grid


@pytest.mark.parametrize(
    ("size", "shown", "count"), [(48, 48, 40), (256, 256, 40), (16, 48, 40), (8, 48, 20)]
)
def test_the_first_row_holds_the_first_ten_images(tmp_path: Path, size: int, shown: int, count: int) -> None:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, size, size)
    sample_grid.save(images, tmp_path / "grid.png")
    row = sample_grid.first_row(np.asarray(Image.open(tmp_path / "grid.png")))
    assert set(np.unique(row)) == {*range(10), 255}
    assert row.shape[0] == shown + 2 * sample_grid.MARGIN
