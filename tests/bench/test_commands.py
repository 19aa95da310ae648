"""The console script: every command, under its own name, with completion that a shell understands."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench import commands

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["/somewhere/alignment-bench", *words])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        written = capsys.readouterr()
        return ended.value.code or 0, written.out, written.err

    return run


def test_the_package_installs_the_script():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"alignment-bench": "bench.commands:main"}


def test_help_lists_every_command_of_the_package(call):
    code, out, _ = call("--help")
    assert code == 0 and call()[1] == out
    runnable = {
        path.stem for path in (ROOT / "bench").glob("*.py") if "exit_code(main)" in path.read_text("utf-8")
    }
    assert runnable == set(commands.COMMANDS)
    assert all(f"\n    {name} " in out for name in runnable)


def test_a_command_speaks_under_the_name_it_was_called_by(call):
    code, out, _ = call("methods", "--help")
    assert code == 0 and out.startswith("usage: alignment-bench methods ")
    assert call("methods", "repa")[1].startswith("repa")
    code, out, err = call("reprot")
    assert code == 2 and err.startswith("error: unknown command 'reprot'. Did you mean 'report'?")


def complete(script, *words):
    """What bash offers for these words."""
    line = " ".join(words)
    probe = f"""source {script}
COMP_WORDS=({line}) COMP_CWORD={len(words) - 1} COMP_LINE="{line}" COMP_POINT={len(line)}
$(complete -p alignment-bench | sed 's/.*-F \\([^ ]*\\).*/\\1/') alignment-bench
printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=False)
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_and_options(call, tmp_path):
    script = tmp_path / "completion.bash"
    assert call("--tyro-write-completion", "bash", str(script))[0] == 0
    assert {"report", "run"} <= set(complete(script, "alignment-bench", "r"))
    offered = complete(script, "alignment-bench", "run", "--tra")
    assert "--track" in offered and all(word.startswith("--tra") for word in offered)


@pytest.mark.parametrize("words", [["bash"], ["fish"], ["zsh"]])
def test_other_shells_get_a_script_too(call, words):
    code, out, _ = call("--tyro-print-completion", *words)
    assert code == 0 and "alignment-bench" in out and "--guidance-scale" in out


def test_a_shell_that_nobody_completes_for_is_one_line(call, tmp_path):
    assert call("--tyro-print-completion", "cmd")[2] == (
        "error: --tyro-print-completion: name a shell, one of bash, zsh, fish, tcsh.\n"
    )
    code, _, err = call("--tyro-write-completion", "bash", str(tmp_path / "absent" / "file"))
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
