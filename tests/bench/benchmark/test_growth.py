"""Exponents against known laws, and the simulated store against the reader of real ones."""

import pytest
import torch

from bench.benchmark import growth
from bench.core.seeding import generator
from bench.data.sharded import StoredImages


def test_the_exponent_of_a_power_law_is_found():
    sizes = [10, 20, 40, 80]
    assert growth.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert growth.exponent(sizes, [7.0] * 4) == pytest.approx(0)


def test_a_store_of_holes_reads_as_one_of_black_images(tmp_path):
    growth._write_holes(tmp_path, 10_000)
    store = StoredImages(tmp_path)
    batch = store.batch(torch.tensor([0, 4096, 9999]), generator(0, "test"))
    assert len(store) == 10_000 and batch.x0.shape == (3, 3, 16, 16) and (batch.x0 == -1).all()
    assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) * 512 < 10_000 * 100  # of 776 bytes each


def test_every_part_can_be_measured_at_its_smallest_size():
    for name, part in growth.growing().items():
        if name not in ("runs", "processes"):  # these start whole commands
            part.work(part.sizes[0])()
