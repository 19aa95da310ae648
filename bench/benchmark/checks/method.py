"""Checks of a method: the properties that the suite guarantees for every run.

The same functions are run by tests over all registered methods.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes

from backbones import cost
from bench.benchmark.checks.result import CheckFailed, CheckResult, NotChecked, run_checks
from bench.benchmark.checks.trial import (
    BATCH_SIZE,
    STEPS,
    State,
    Trial,
    first_difference,
    rows_differ,
)
from bench.config import resolve
from bench.core import grammar
from bench.core.parallel import UNDIVIDED, Parallelism
from bench.evaluation import sampling
from methods.base import Loss, Method

HALF = STEPS // 2
WORLD = 2
STATE_TOLERANCE = 2e-2  # of the largest value: AdamW takes full steps along gradients that are mere rounding
SHARED = ("x0", "noise", "t", "x_t", "target", "prediction", "label")  # of a context; not the method's own


def check_method(
    method: str, backbone: str, checks: Mapping[str, Callable[[Trial], str]] | None = None
) -> Iterator[CheckResult]:
    """All checks of a method, `NAME[options]` or the path of a file, on a small backbone; or some of them."""
    file = grammar.split(method)[0].replace("-", "_").removesuffix(".py") + ".py"
    return run_checks(checks or CHECKS, Trial(method, backbone), file)


@lru_cache(maxsize=1)
def first_step(trial: Trial) -> tuple[dict[str, Any], dict[str, Loss]]:
    """The row of the first step, and the loss terms of the method, which must have the documented form."""
    trainer, terms = trial.trainer(), {}
    original = trainer.method.losses

    def observed(context: Any) -> Any:
        before = {name: getattr(context, name).detach().clone() for name in SHARED}
        found = original(context)
        _refuse_malformed(found)
        for name, value in before.items():
            if not torch.equal(getattr(context, name), value):
                raise CheckFailed(f"losses changes context.{name} in place: work on a copy.")
        terms.update(found)
        return found

    trainer.method.losses = observed  # type: ignore[method-assign]
    return trainer.step(0), terms


def losses(trial: Trial) -> str:
    """A step trains, and its loss terms have the documented form."""
    row, terms = first_step(trial)
    for name, loss in terms.items():
        if not torch.isfinite(loss.value).all():
            raise CheckFailed(f"the loss term '{name}' is not finite: {loss.value.tolist()}.")
    if terms and not any(loss.value.requires_grad for loss in terms.values()):
        raise CheckFailed("no loss term has a gradient: is something detached that should be trained?")
    named = ", ".join(f"{name} {float(value):.3g}" for name, value in row["raw"].items())
    return f"a step trains; {named}"


def _refuse_malformed(found: Any) -> None:
    if not isinstance(found, dict):
        raise CheckFailed(f"losses returns a {type(found).__name__}: return a dict, name -> Loss(value).")
    for name, loss in found.items():
        if not isinstance(loss, Loss) or not isinstance(loss.value, Tensor):
            raise CheckFailed(f"the loss term '{name}' is a {type(loss).__name__}: return Loss(value).")
        if loss.value.shape != (BATCH_SIZE,):
            raise CheckFailed(
                f"the value of the loss term '{name}' has shape {tuple(loss.value.shape)}: give one value "
                f"per sample, [B] = ({BATCH_SIZE},); the trainer takes the mean over the batch."
            )
        if loss.value.dtype not in (torch.float32, torch.float64):
            raise CheckFailed(f"the loss term '{name}' is in {loss.value.dtype}: compute it in float32.")


@lru_cache(maxsize=8)
def uninterrupted(trial: Trial) -> tuple[State, list[dict[str, Any]]]:
    """State and rows of a few steps, for comparison in several checks."""
    return trial.train()


def pairing(trial: Trial) -> str:
    """Except for terms of the method, the first step equals that of the baseline: data, noise, weights."""
    rows, baseline = uninterrupted(trial)[1], uninterrupted(Trial("baseline", trial.backbone))[1]
    own = resolve.method(trial.method)
    found, expected = float(rows[0]["raw"]["denoise"]), float(baseline[0]["raw"]["denoise"])
    if type(own).steer is not Method.steer or type(own).extras is not Method.extras:
        raise NotChecked("the method steers what the network is given")
    if "denoise" in first_step(trial)[1]:
        raise NotChecked("the method replaces the denoising loss")
    if found != expected:
        raise CheckFailed(
            f"the denoising loss of the first step is {found:.6g}, the baseline's is {expected:.6g}: runs of "
            "one seed are no longer paired. Does the method change the network, its input or its gradients?"
        )
    return "the first step has the baseline's denoising loss, to the last bit"


def repeatable(trial: Trial) -> str:
    """Two runs of one seed are equal, independent of the state of global random generators."""
    state, _ = uninterrupted(trial)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        again, _ = trial.train()
    if where := first_difference(again, state):
        raise CheckFailed(
            f"two runs of one seed differ, first in {where}: draw random numbers from context.generator or "
            "context.share, never from the global stream."
        )
    return f"{STEPS} steps of one seed, twice, to the last bit"


def resume(trial: Trial) -> str:
    """A resumed run equals an uninterrupted one."""
    state, _ = uninterrupted(trial)
    half, _ = trial.train(range(HALF))
    continued, _ = trial.train(range(HALF, STEPS), after=half)
    if where := first_difference(continued, state):
        raise CheckFailed(
            f"a run stopped after step {HALF} and continued differs from one that was not, first in {where}: "
            "what changes from step to step must be a buffer or parameter that `build` makes."
        )
    return f"stopped after step {HALF} and continued: to the last bit"


def gradients(trial: Trial) -> str:
    """Every trainable parameter of the method has a gradient."""
    trainer = trial.trainer()
    largest: dict[str, float] = {}
    for step in range(STEPS):
        trainer.step(step)
        for name, parameter in trainer.method.named_parameters():
            if parameter.requires_grad:
                size = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
                largest[name] = max(size, largest.get(name, 0.0))
    if idle := [name for name, size in largest.items() if size == 0]:
        raise CheckFailed(
            f"in {STEPS} steps no gradient reached {', '.join(idle)}: use it in a loss, or make it a buffer."
        )
    return f"{len(largest)} parameters of the method, all with a gradient"


def micro_batches(trial: Trial) -> str:
    """Micro-batches add up to the batch, unless the method compares samples."""
    trainer = trial.trainer()
    if any(trainer.method.needs(step, 60).whole_batch for step in range(60)):
        raise NotChecked("the method compares the samples of a batch (Needs.whole_batch)")
    refuse_difference(
        trial.train(parallelism=Parallelism(micro_batch=3)),
        uninterrupted(trial),
        "micro-batches of 3 do not add up to the batch",
        "a loss that compares samples sets Needs.whole_batch and uses context.share.gather; random draws are "
        "those of the whole batch, context.share.randn(...)",
    )
    return "micro-batches of 3 add up to the batch of 8"


def processes(trial: Trial) -> str:
    """Two processes compute what one process computes."""
    refuse_difference(
        trained_by_two([(trial, UNDIVIDED)])[0],
        uninterrupted(trial),
        "two processes do not train what one process trains",
        "a loss that compares samples gathers them, context.share.gather(values, gradient=True); random "
        "draws are those of the whole batch, context.share.randn(...)",
    )
    return "two processes (gloo) train what one trains"


def trained_by_two(cases: list[tuple[Trial, Parallelism]]) -> list[tuple[Any, Any]]:
    """State and rows of each trial, trained by two processes with the given parallelism."""
    # Both are forked from a server that has imported what a step takes, torch.optim's torch._dynamo included.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "torch._dynamo"])
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_work, (folder, cases), nprocs=WORLD, start_method="forkserver")
        return [torch.load(Path(folder) / str(number)) for number in range(len(cases))]


def _work(rank: int, folder: str, cases: list[tuple[Trial, Parallelism]]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    for number, (trial, parallelism) in enumerate(cases):
        found = trial.train(parallelism=parallelism)
        if rank == 0:
            torch.save(found, Path(folder) / str(number))
    distributed.destroy_process_group()


def refuse_difference(found: tuple[Any, Any], expected: tuple[Any, Any], what: str, remedy: str) -> None:
    """Raises CheckFailed unless rows and states agree up to the order of floating-point sums."""
    where = rows_differ(found[1], expected[1]) or first_difference(
        found[0], expected[0], tolerance=STATE_TOLERANCE
    )
    if where:
        raise CheckFailed(f"{what} ({where}): {remedy}.")


def samples(trial: Trial) -> str:
    """Sample i only depends on seed and i, and only needs the backbone."""
    trainer = trial.trainer()
    trainer.step(0)

    def draw(index: list[int]) -> Tensor:
        spec = trainer.spec.model_copy(
            update={"protocol": trainer.spec.protocol.model_copy(update={"sampler_flow": "heun[steps=2]"})}
        )
        found = sampling.stream(trainer.ema, trainer.process, spec, trainer.data, torch.tensor(index))
        return torch.cat([part.images for part in found])

    together, alone = draw([0, 1, 2, 3]), draw([2])
    if (together[2].int() - alone[0].int()).abs().max() > 1:  # rounding to 8 bits may tip over
        raise CheckFailed("sample 2 is another image if it is drawn alone: samples must not see their batch.")
    return "sample 2 of a batch is sample 2 alone"


def flops(trial: Trial) -> str:
    """All FLOPs of a step are counted."""
    trainer = trial.trainer()
    trainer.prepare(0)
    with cost.counter() as counter:
        trainer.step(0)
    counted, done = trainer.flops_per_step, counter.get_total_flops()
    if done > 1.001 * counted:
        raise CheckFailed(
            f"a step executes {done / 1e6:.2f} MFLOP, of which {counted / 1e6:.2f} are counted: compute in "
            "`losses`, not in `needs` or `after_backward`."
        )
    baseline = Trial("baseline", trial.backbone).trainer()
    baseline.prepare(0)
    extra = counted - baseline.flops_per_step
    if extra < 0:
        raise CheckFailed(f"a step costs {-extra / 1e6:.2f} MFLOP less than the baseline's.")
    return f"{counted / 1e6:.2f} MFLOP per step, {extra / 1e6:.2f} above the baseline, all counted"


CHECKS = {
    "losses": losses,
    "pairing": pairing,
    "repeatable": repeatable,
    "resume": resume,
    "gradients": gradients,
    "FLOPs": flops,
    "samples": samples,
    "micro-batches": micro_batches,
    "processes": processes,
}
