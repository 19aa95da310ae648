"""The layouts that are timed hold the same records."""

import numpy as np
import pytest
import torch

from bench.benchmark import data


@pytest.mark.parametrize("name", data.layouts())
def test_every_layout_gives_what_was_written_in_the_order_asked_for(name, tmp_path):
    records, order = data._records(6), torch.tensor([5, 0, 3, 1, 2, 4])
    write, read = data.layouts()[name]
    write(tmp_path, records)
    data.forget(tmp_path)
    labels = []
    for batch in read(tmp_path, order, 2, 0 if name != "store" else 1):
        image, label = (batch.image, batch.label) if name == "store" else (batch[0], batch[2])
        labels += label.tolist()
        assert np.array_equal(image, records["image"][label])
        if name != "store":
            latent = np.concatenate([records["mean"][label], records["std"][label]], axis=1)
            assert np.array_equal(batch[1], latent)
    assert labels == order.tolist()
