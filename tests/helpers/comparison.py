"""The fields of rows that must be equal however a run was interrupted or distributed."""

from bench.core.files import read_rows

TIMING = {"seconds", "step_seconds", "images_per_second", "evaluation_seconds"}


def numbers(folder):
    """All rows of a run but for the clock's, the last of each step."""
    return {
        name: {
            row["step"]: {key: value for key, value in row.items() if key not in TIMING}
            for row in read_rows(folder / f"{name}.jsonl")
        }
        for name in ("train", "eval")
    }
