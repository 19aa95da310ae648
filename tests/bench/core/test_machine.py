"""What is recorded of the machine and of the command."""

from pathlib import Path

from bench.core import machine


def test_the_record_of_a_command_can_be_typed_again_and_names_no_folder():
    run = Path(machine.__file__).parents[1] / "run.py"
    assert machine._command([str(run), "--method", "repa[a=1]"]) == "python -m bench.run --method 'repa[a=1]'"
    assert machine._command(["/home/me/study.py", "x"]) == "study.py x"
    assert machine._command(["alignment-bench run", "--seed", "0"]) == "alignment-bench run --seed 0"
