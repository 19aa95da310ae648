"""Collectives: nobody is left waiting, and a gathered loss has the gradient of one process."""

import pytest
import torch

from tests.helpers import forked
from tests.helpers.collectives import spread, work


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collectives")
    forked.together(2, work, (2, str(folder)))
    return [torch.load(folder / f"rank-{rank}") for rank in range(2)]


def test_what_rank_0_returns_or_raises_reaches_every_rank(ranks):
    first, second = (rank["found"] for rank in ranks)
    assert first["value"] == second["value"] == {"found": 3}
    assert first["user error"] == second["user error"] == "UserError: no such file."
    assert first["interrupt"] == second["interrupt"] == "KeyboardInterrupt: "
    assert first["other error"] == "ZeroDivisionError: by zero"
    assert second["other error"] == "RuntimeError: process 0 failed with ZeroDivisionError: by zero"
    assert "pickle" in second["not picklable"]


def test_a_gathered_loss_has_the_gradient_of_one_process(ranks):
    inputs = torch.linspace(-1, 1, 5 * 3, dtype=torch.float64).view(5, 3)
    weight = torch.eye(3, dtype=torch.float64).add(0.1).requires_grad_()
    spread(inputs @ weight).backward()
    for rank in ranks:
        torch.testing.assert_close(rank["gradient"], weight.grad)
