"""The page of the GPU campaign: what was measured, beside the goals, with card, versions and command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.benchmark.gpu_checks import SAME_GRADIENT, SAME_LEVELS, SAME_LOSS
from bench.core.files import in_units, write_json, write_text

PAGE, DATA = "results.md", "results.json"
GOAL_BACKBONE, GOAL_SPEED, GOAL_RATIO = (
    "sit-xl",
    600,
    1.05,
)  # of REPA's images a second; of VRPO's step to REPA's

Results = Mapping[str, Mapping[str, Any]]


def write(results: Results, output: Path, device: torch.device, toy: bool) -> None:
    """The page and the same as JSON, of what is there so far."""
    write_json(output / DATA, dict(results))
    parts = ["# GPU campaign", _origin(results, device, toy), *_sections(results)]
    write_text(output / PAGE, "\n\n".join(part for part in parts if part) + "\n")


def goals(results: Results) -> list[str]:
    """A line for each goal, which is set for an H100, and what was measured."""
    speed = _best(results, "repa", "images_per_second")
    lines = [
        f"goal: {GOAL_BACKBONE} with REPA at {GOAL_SPEED} images a second or more; "
        + ("not measured" if speed is None else f"measured {speed:.0f}: {_said(speed >= GOAL_SPEED)}")
    ]
    seconds = [_best(results, method, "images_per_second") for method in ("vrpo", "repa")]
    ratio = None if None in seconds else seconds[1] / seconds[0]  # type: ignore[operator]
    measured = "not measured" if ratio is None else f"measured {ratio:.3f}: {_said(ratio <= GOAL_RATIO)}"
    lines.append(f"goal: a step of VRPO at most {GOAL_RATIO} times REPA's on {GOAL_BACKBONE}; {measured}")
    return lines


def _said(reached: bool) -> str:
    return "reached" if reached else "missed"


def _best(results: Results, method: str, figure: str) -> float | None:
    """Of compiled and not."""
    names = [f"train {method} {GOAL_BACKBONE}", f"train {method} {GOAL_BACKBONE} compiled"]
    return max((results[name][figure] for name in names if figure in results.get(name, {})), default=None)


def _origin(results: Results, device: torch.device, toy: bool) -> str:
    found = results.get("machine", {})
    if not found or "hardware" not in found:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    revision = found["git"].get("revision", "")[:12]
    lines = [
        f"{found['hardware']}; {versions}; Python {found['python']}; revision {revision or 'unknown'}; "
        f"{found['created']}.",
        f"    {found['command']}",
    ]
    if toy or device.type != "cuda":
        lines.append("Toy sizes: this shows that the campaign runs. No figure here says anything of a GPU.")
    return "\n\n".join(lines)


def _sections(results: Results) -> list[str]:
    machine = results.get("machine", {})
    product = machine.get("product_flops", {}).get("bf16", 0)
    peak = machine.get("peak_bf16", 0)
    return [
        "## Goals\n\nSet for one H100.\n\n" + "\n".join(f"- {line}" for line in goals(results)),
        _section(
            "Card against CPU",
            f"float32 without TF32; at most {SAME_LOSS:g} (losses), {SAME_GRADIENT:g} (gradient, of its "
            f"norm), {SAME_LEVELS} level of 255 (samples).",
            ["", "losses", "gradient", "samples", "same"],
            [
                [name, f"{r['losses']:.1e}", f"{r['gradient']:.1e}", r["sample_levels"], _yes(r["same"])]
                for name, r in _of(results, "check ")
            ],
        ),
        _section(
            "Training",
            "Random inputs, without encoder. Utilisation is of the bf16 peak of the data sheet, "
            + (f"{peak / 1e12:.0f} TFLOP/s" if peak else "unknown for this device")
            + ", and of a matrix product in bf16 here, "
            + (f"{product / 1e12:.3g} TFLOP/s." if product else "not measured."),
            ["", "batch", "precision", "ms", "img/s", "TFLOP/s", "of peak", "of product", "memory"],
            [
                [
                    name,
                    r["batch_size"],
                    r["precision"],
                    f"{1e3 * r['seconds']:.4g} ({1e3 * r['fastest']:.4g}-{1e3 * r['slowest']:.4g})",
                    f"{r['images_per_second']:.4g}",
                    f"{r['flops_per_second'] / 1e12:.3g}",
                    _share(r["flops_per_second"], peak),
                    _share(r["flops_per_second"], product),
                    in_units(r["memory"]) if r["memory"] else "",
                ]
                for name, r in _of(results, "train ")
            ],
        ),
        _section(
            "Sampling",
            "Guided in part of the steps, as REPA's best row.",
            ["", "batch", "steps", "img/s"],
            [
                [name, r["batch_size"], r["steps"], f"{r['images_per_second']:.4g}"]
                for name, r in _of(results, "sample ")
            ],
        ),
        _section(
            "Official code",
            "In turn, the same weights; the largest relative difference of the numbers of both.",
            ["", "batch", "difference", "step, ours", "official", "ratio", "sampling, ratio"],
            [
                [
                    name,
                    r["batch_size"],
                    f"{max(r['differences'].values()):.0e}",
                    f"{1e3 * r['training']['ours_seconds']:.4g} ms",
                    f"{1e3 * r['training']['official_seconds']:.4g} ms",
                    f"{r['training']['ratio']:.3f}",
                    f"{r['sampling']['ratio']:.3f}" if "sampling" in r else "",
                ]
                for name, r in _of(results, "official ")
            ],
        ),
        _study(_of(results, "study: ")),
        _section(
            "Failed",
            "Tried again by the same command.",
            ["", "reason"],
            [[name, result["failed"]] for name, result in results.items() if "failed" in result],
        ),
    ]


def _study(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    rows = [(name, row) for name, result in found for row in result.get("evaluations", ())]
    names = list(dict.fromkeys(name for _, row in rows for name in row["metrics"]))
    table = [
        [name, row["step"], f"{row['seconds']:.0f}"]
        + [f"{row['metrics'][m]:.4g}" if row["metrics"].get(m) is not None else "" for m in names]
        for name, row in rows
    ]
    text = "One seed. Table and plots of the same runs: `python -m bench.report` of the folder `study`."
    return _section("Study", text, ["", "step", "seconds", *names], table)


def _of(results: Results, first: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The pieces of a kind that did not fail, by their names without it."""
    return [
        (name.removeprefix(first), result)
        for name, result in results.items()
        if name.startswith(first) and "failed" not in result
    ]


def _section(title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, *rows)]
    lines.insert(1, "|" + "---|" * len(columns))
    return f"## {title}\n\n{text}\n\n" + "\n".join(lines)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"
