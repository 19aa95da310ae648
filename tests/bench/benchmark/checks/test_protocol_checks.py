import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.benchmark.checks import protocol as protocol_checks
from bench.benchmark.checks.protocol import check
from bench.config import resolve
from bench.core.errors import UserError
from bench.data.in_memory import InMemory
from bench.diffusion import samplers
from bench.evaluation import sampling
from bench.metrics import frechet

PROTOCOL = resolve.run_spec("baseline", "sit-ti", "digits", seed=0).protocol


def stages_off(reference: Path | None = None) -> set[str]:
    return {finding.stage for finding in check(PROTOCOL, "digits", reference) if finding.state == "failed"}


def break_numerics(patch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        raise UserError("the linear algebra is wrong")

    patch.setattr(frechet, "self_test", wrong)


def break_feature_net(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(protocol_checks, "PINNED", (0.5, 0.5))


def break_reference(patch: pytest.MonkeyPatch) -> None:
    honest = InMemory.reference
    patch.setattr(InMemory, "reference", lambda self: tuple(part.flip(0) for part in honest(self)))


def break_decoder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InMemory, "to_pixels", lambda self, x0: x0 * 0.9)


def break_sampler(patch: pytest.MonkeyPatch) -> None:
    honest = samplers.Heun.sample

    def wrong(self: samplers.Heun, model: Callable, *arguments, **how):
        def weak(*inputs):
            output = model(*inputs)
            return output._replace(prediction=0.8 * output.prediction)

        return honest(self, weak, *arguments, **how)

    patch.setattr(samplers.Heun, "sample", wrong)


def break_labels(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        sampling, "requested_labels", lambda index, *_, **__: torch.zeros(len(index), dtype=torch.long)
    )


def break_rounding(patch: pytest.MonkeyPatch) -> None:
    honest = protocol_checks.to_uint8
    patch.setattr(protocol_checks, "to_uint8", lambda values, _rule: honest(values, "round"))


def test_nothing_is_off_here():
    assert stages_off() == set()


@pytest.mark.parametrize(
    ("sabotage", "stage"),
    [
        (break_numerics, "numerics"),
        (break_feature_net, "feature nets"),
        (break_reference, "reference"),
        (break_decoder, "decoder"),
        (break_sampler, "sampler"),
        (break_labels, "labels and seeds"),
        (break_rounding, "rounding"),
    ],
)
def test_the_stage_that_is_off_is_named_and_no_other(
    sabotage: Callable[[pytest.MonkeyPatch], None], stage: str, monkeypatch: pytest.MonkeyPatch
):
    sabotage(monkeypatch)
    assert stages_off() == {stage}


def test_damaged_reference_statistics_are_found(tmp_path: Path):
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(5), sigma=np.eye(5))
    assert stages_off(path) == set()
    np.savez(path, mu=np.zeros(5), sigma=np.diag([1.0, 1, 1, 1, -1]))
    assert stages_off(path) == {"reference"}


def test_what_cannot_be_checked_is_said_and_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    protocol = PROTOCOL.model_copy(update={"feature_nets": ("inception",)})
    (finding,) = protocol_checks.feature_nets(protocol)
    assert finding.state == "not checked" and "curl" in finding.text


def test_a_data_set_that_is_not_here_is_not_called_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNMENT_BENCH_STORES", str(tmp_path))
    findings = [
        *protocol_checks.reference_statistics("imagenet256", None),
        *protocol_checks.decoder("imagenet256"),
    ]
    assert [finding.state for finding in findings] == ["not checked"] * 2


@pytest.mark.parametrize(("samples", "classes"), [(2000, 1000), (5000, 10)])
def test_random_labels_are_told_from_skewed_ones(samples: int, classes: int, monkeypatch: pytest.MonkeyPatch):
    protocol = PROTOCOL.model_copy(update={"labels": "random", "samples": samples})
    assert {finding.state for finding in protocol_checks.labels_and_seeds(protocol, classes)} == {"ok"}
    honest = sampling.requested_labels
    monkeypatch.setattr(
        sampling, "requested_labels", lambda *a, **k: honest(*a, **k) * 4 // 5
    )  # a fifth is never
    first, second = protocol_checks.labels_and_seeds(protocol, classes)
    assert (first.state, second.state) == ("failed", "ok")


def test_every_sampler_passes_in_many_steps():
    for name in ("repa-sde-250", "sit-ode-dopri5"):
        protocol = PROTOCOL.model_copy(update={"sampler_flow": name, "sampler_ddpm": "dit-ddpm-250"})
        assert {finding.state for finding in protocol_checks.sampler(protocol)} == {"ok"}


def test_the_command_prints_every_stage():
    line = [sys.executable, "-m", "bench.check", "protocol"]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for stage in (
        "numerics",
        "feature nets",
        "reference",
        "decoder",
        "sampler",
        "labels and seeds",
        "rounding",
    ):
        assert stage in result.stdout
