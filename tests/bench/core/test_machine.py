"""What is recorded of the machine and of the command."""

from pathlib import Path

from bench.core import machine


def test_the_record_of_a_command_can_be_typed_again_and_names_no_folder(monkeypatch, tmp_path):
    run = Path(machine.__file__).parents[1] / "run.py"
    assert machine._command([str(run), "--method", "repa[a=1]"]) == "python -m bench.run --method 'repa[a=1]'"
    assert machine._command(["/home/me/study.py", "x"]) == "study.py x"
    assert machine._command(["alignment-bench run", "--seed", "0"]) == "alignment-bench run --seed 0"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    data, file = f"--data=folder[path={tmp_path}/stores/a]", f"{tmp_path}/work/mine.py"
    found = machine._command([str(run), data, "--method", file, "../x", "/data/y"])
    assert found == "python -m bench.run '--data=folder[path=~/stores/a]' --method mine.py ../x /data/y"
    for program in ("submitit/core/_submit.py", "ipykernel_launcher.py"):
        words = [f"/env/lib/python3/site-packages/{program}", f"{tmp_path}/runs/jobs"]
        assert machine._command(words) == Path(program).name
