"""Several processes and micro-batches train what one process trains, up to the order of float additions."""

import pytest
import torch

from bench.config import resolve
from bench.core.errors import UserError
from bench.core.parallel import Parallelism
from bench.training.trainer import Trainer
from tests.helpers import forked
from tests.helpers.sharing import CPU, STEPS, TRAINING, trained, work

METHODS = [
    "repa",
    "vrpo[estimator=score,share=0.5]",
    "vrpo[estimator=likelihood,t_max=1.0]",
    "vrpo[shuffle=true]",
    "vrpo[estimator=pathwise+counterfactual]",
    "vrpo[semantic_reward=latent]",
]
WORLD = 2  # does not divide the batch of 9


@pytest.fixture(scope="module")
def alone():
    return {method: trained(method) for method in METHODS}


@pytest.fixture(scope="module")
def together(tmp_path_factory, alone):
    """What two processes make of every method, and what else only processes can tell."""
    folder = tmp_path_factory.mktemp("processes")
    torch.save(alone["repa"][0], folder / "alone")
    cases = [(method, Parallelism(), "") for method in METHODS]
    cases += [("repa", Parallelism(fsdp=True, recompute=True), ""), ("repa", Parallelism(micro_batch=2), "")]
    cases += [("repa", Parallelism(micro_batch=2, fsdp=True), "alone")]
    forked.together(WORLD, work, (WORLD, str(folder), cases))
    keys = [*METHODS, "sharded", "micro-batches", "sharded, from the state of one"]
    found = [torch.load(folder / f"found-{WORLD}-{number}") for number in range(len(cases))]
    return dict(zip(keys, found, strict=True))


def assert_same(found, expected):
    """Losses and gradient norms of all steps, and the state after them: weights, EMA, students, and the
    optimiser's moments, which hold the gradients of all steps."""
    (state, rows), (expected_state, expected_rows) = found, expected
    torch.testing.assert_close(rows, expected_rows, rtol=2e-4, atol=2e-5)
    for part, tensors in expected_state.items():
        assert state[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (state[part][name] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-7, f"{part} {name}"


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_what_one_trains(together, alone, method):
    assert_same(together[method], alone[method])


def test_shards_and_activation_checkpointing_train_what_whole_weights_train(together, alone):
    assert_same(together["sharded"], alone["repa"])


def test_micro_batches_of_several_processes_add_up_to_the_batch(together, alone):
    assert_same(together["micro-batches"], alone["repa"])


def test_the_state_of_one_process_is_taken_up_by_several_and_back(together, alone):
    """One process, then two with shards, then one again: as one process all the way."""
    state, rows = together["sharded, from the state of one"]
    assert_same((state, rows), trained("repa", after=alone["repa"][0]))
    back = Trainer(resolve.run_spec("repa", "sit-ti", "digits", 0, training=TRAINING), CPU)
    back.load_state(state)
    row = back.step(2 * STEPS)
    undisturbed, expected = trained("repa", steps=2 * STEPS + 1)
    assert_same((back.state(), [{key: row[key] for key in expected[-1]}]), (undisturbed, expected[-1:]))


@pytest.mark.parametrize("method", ["vrpo[estimator=score]", "vrpo[estimator=counterfactual]"])
def test_micro_batches_add_up_to_the_batch(method):
    assert_same(trained(method, Parallelism(micro_batch=3)), trained(method))


def test_a_method_that_compares_samples_refuses_micro_batches():
    with pytest.raises(UserError, match="micro-batch would take apart"):
        trained("vrpo[estimator=likelihood]", Parallelism(micro_batch=3), steps=1)


def test_the_micro_batches_of_all_processes_are_the_batch(monkeypatch):
    for world, micro_batch in ((1, 0), (3, 0), (3, 2), (4, 1)):
        monkeypatch.setattr("bench.core.distributed.world_size", lambda world=world: world)
        rows = []
        for rank in range(world):
            monkeypatch.setattr("bench.core.distributed.rank", lambda rank=rank: rank)
            parts = Parallelism(micro_batch).micro_batches(12)
            rows += [row for part in parts for row in range(part.start, part.stop)]
            assert not micro_batch or all(part.stop - part.start <= micro_batch for part in parts)
        assert rows == list(range(12))
    with pytest.raises(UserError, match="cannot be divided into 4 parts"):
        Parallelism().micro_batches(3)
