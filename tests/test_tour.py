"""The notebook runs from top to bottom; at four steps a run, since its point is that it runs."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"


def test_the_tour_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is committed without
    monkeypatch.setenv("TOUR_SHORT", "1")
    monkeypatch.setenv("TOUR_RESULTS", str(tmp_path / "tour"))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        (output.get("data") or {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert sum("image/png" in data for data in shown) == 2  # samples and curves
    tables = [data["text/plain"] for data in shown if "text/html" in data]
    assert len(tables) == 2 and "baseline" in tables[0] and "repa" in tables[0]
    assert "fid[digits-cnn]" in tables[0] and "follow" in tables[1]
    assert "'follow'" in shown[-1]["text/plain"]
    assert len(list((tmp_path / "tour").glob("*/spec.json"))) == 3
