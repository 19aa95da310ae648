"""How training reads: the order is a function of the seed, whoever asks and whenever."""

import threading

import pytest
import torch

from bench import prepare
from bench.core.seeding import data_order
from bench.data import datasets
from bench.data.prefetch import Prefetch
from tests.helpers.sources_on_disk import image_folder, tiny_vae


def test_results_come_in_order_and_ahead_of_being_asked_for():
    read, both = [], threading.Barrier(2, timeout=200)

    def slow(step):
        read.append(step)
        if step in (1, 2):
            both.wait()  # is passed only where two threads read at once
        return step * 10

    batches = Prefetch(slow, ahead=2)
    assert [batches(step) for step in range(5)] == [0, 10, 20, 30, 40]
    assert len(set(read)) == len(read)  # nothing is read twice


def test_what_goes_wrong_in_a_thread_is_raised_where_it_is_asked_for():
    def fails(step):
        raise ValueError(f"step {step}")

    with pytest.raises(ValueError, match="step 7"):
        Prefetch(fails)(7)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_over_ranks_is_every_record_once(world):
    """Rank r reads its share of every global batch; 40 records in batches of 8."""
    shares = [
        data_order(3, 40, 8 * step, 8).tensor_split(world)[rank] for step in range(5) for rank in range(world)
    ]
    assert torch.cat(shares).sort().values.tolist() == list(range(40))


def test_a_resume_within_an_epoch_reads_what_would_have_come():
    whole = data_order(0, 1000, 0, 3000)
    assert torch.equal(data_order(0, 1000, 1234, 800), whole[1234:2034])


def test_images_are_read_only_where_an_encoder_sees_them(tmp_path):
    source = image_folder(tmp_path / "source", parts=("train",))
    tiny_vae(tmp_path / "vae")
    recipe = prepare.Recipe(size=32, vae=str(tmp_path / "vae"))
    prepare.prepare(str(source), tmp_path / "store", recipe, workers=1)
    data, index = datasets.get(f"folder[path={tmp_path / 'store'}]").open(), torch.arange(5)
    both = [data.batch(index, torch.Generator().manual_seed(0), images) for images in (True, False)]
    assert torch.equal(both[0].x0, both[1].x0)
    assert both[0].image.shape == (5, 3, 32, 32) and both[1].image.numel() == 0
