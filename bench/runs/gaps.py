"""Rows that a run should have and has not: its files of rows were cut off, damaged or edited.

A kill leaves no gap: training goes back to a checkpoint, and writes the rows of the repeated steps again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bench.config.spec import Training, protocol_hash
from bench.core.files import damaged_lines, read_rows
from bench.runs.formats import EvaluationRow
from bench.runs.record import RunRecord


def missing_training(record: RunRecord, step: int, spec: Mapping[str, Any] | None = None) -> str:
    """What `train.jsonl` lacks of the first `step` steps, and what that means; "" if nothing.

    `spec`: the fields of `spec.json`, if they were read before.
    """
    training = _training(spec or record.spec_fields())
    if training is None:
        return ""
    logged = {row.get("step") for row in read_rows(record.folder / "train.jsonl")}
    expected = (number for number in range(1, step + 1) if number == 1 or number % training.log_every == 0)
    found = _description("train.jsonl", [number for number in expected if number not in logged])
    return found and f"{found} Plots of losses and logs go without them; weights and metrics are whole."


def missing_evaluations(
    record: RunRecord,
    step: int,
    spec: Mapping[str, Any] | None = None,
    rows: Sequence[EvaluationRow] | None = None,
    own: str = "",
) -> str:
    """What `eval.jsonl` lacks of the first `step` steps, and what to do; "" if nothing.

    `spec`, `rows` and `own`: the fields of `spec.json`, the evaluations and the hash of the run's protocol,
    if they were read before. Steps whose evaluation is pending, since another process makes it, are not
    missing.
    """
    spec = spec or record.spec_fields()
    training, own = _training(spec), own or protocol_hash(spec["protocol"])
    due = [number for number in training.evaluation_steps if number <= step] if training else []
    seen = {row.step for row in (record.evaluations() if rows is None else rows) if row.protocol == own}
    steps = [number for number in due if number not in seen]
    steps = [number for number in steps if number not in record.kept_steps()] if steps else []
    damaged = damaged_lines(record.folder / "eval.jsonl")
    remedy = "Curves and speedups go without them: to have them, move the folder away and run it again."
    if training and steps == [training.steps]:
        remedy = f"python -m bench.evaluate {record.folder} makes it again."
    found = _description("eval.jsonl", steps, damaged)
    return found and f"{found} {remedy}"


def damaged_probes(record: RunRecord) -> str:
    """Lines of `probe.jsonl` that cannot be read, and what to do; "" if there are none."""
    if not (record.folder / "probe.jsonl").is_file():
        return ""
    found = _description("probe.jsonl", (), damaged_lines(record.folder / "probe.jsonl"))
    return found and f"{found} python -m bench.probe {record.folder} writes it again."


def _training(spec: Mapping[str, Any]) -> Training | None:
    """Settings of the training; None if they are those of another version."""
    try:
        return Training.model_validate(spec["training"])
    except (ValidationError, KeyError):
        return None


def _description(file: str, steps: Sequence[int], damaged: Sequence[str] = ()) -> str:
    parts = [f"{file} lacks the rows of {_ranges(steps)}"] if steps else []
    parts += [f"{', '.join(damaged)} cannot be read"] if damaged else []
    return " and ".join(parts) + "." if parts else ""


def _ranges(steps: Sequence[int]) -> str:
    """`step 3`, `steps 3, 5`, or `12 steps from 3 to 40`."""
    if len(steps) > 4:
        return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    return f"step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"
