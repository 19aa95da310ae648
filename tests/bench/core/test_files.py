"""Files are written whole or not at all."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from bench.core import files
from bench.core.errors import exit_code


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ZeroDivisionError), files.replacing(path) as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(TypeError):
        files.write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1} == files.read_json(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_an_older_one_only_when_it_is_complete(tmp_path):
    path = tmp_path / "step"
    for content in ("old", "new"):
        with files.replacing(path) as unfinished:
            unfinished.mkdir()
            (unfinished / content).touch()
            assert content == "old" or (path / "old").is_file()
    assert [file.name for file in path.iterdir()] == ["new"]
    with pytest.raises(ZeroDivisionError), files.replacing(path) as unfinished:
        unfinished.mkdir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [path] and (path / "new").is_file()


@pytest.mark.parametrize("content", [b"", b'{"x": ', b"[1]", b"\xff\xfe"])
def test_json_that_is_damaged_or_no_object_reads_as_empty(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert files.read_json(tmp_path / "a.json") == {} == files.read_json(tmp_path / "absent.json")


def test_rows_are_read_from_every_writers_file_and_torn_lines_are_skipped(tmp_path):
    (tmp_path / "eval.jsonl").write_text('{"step": 1}\n{"step": 2')
    (tmp_path / "eval.4.jsonl").write_bytes(b'{"step": 4}\n\xff\n3\n')
    assert files.read_rows(tmp_path / "eval.jsonl") == [{"step": 1}, {"step": 4}]
    assert files.read_rows(tmp_path / "absent.jsonl") == []
    assert files.damaged_lines(tmp_path / "eval.jsonl") == ["eval.4.jsonl:2", "eval.4.jsonl:3"]


def test_a_row_cut_anywhere_is_no_damage_and_a_flipped_bit_is_no_other_row(tmp_path):
    row = {"step": 3, "raw": {"denoise": 0.25, "a{}": -1e-7}, "metrics": {"fid[x]": 2.5}, "name": "é\u2028"}
    line = json.dumps(row, ensure_ascii=False).encode()
    path = tmp_path / "eval.jsonl"
    for count in range(1, len(line)):
        path.write_bytes(line[:count] + b"\n" + line + b"\n")
        assert files.read_rows(path) == [row] and files.damaged_lines(path) == []
    for place in range(1, len(line) - 1):
        damaged = line[:place] + b"\xff" + line[place + 1 :]
        path.write_bytes(line + b"\n" + damaged + b"\n" + line)
        assert files.read_rows(path) == [row, row]
        if line[place : place + 1] not in b"{}":  # else it may be a row that was cut off
            assert files.damaged_lines(path) == ["eval.jsonl:2"]


def test_numbers_and_checksums(tmp_path):
    row = {"loss": torch.tensor(1 / 3), "raw": {"denoise": 2}}
    assert files.to_numbers(row) == {"loss": 0.333333, "raw": {"denoise": 2.0}}
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_sizes_have_units_that_fit():
    sizes = (0, 980, 3_210_000, 140e9, 2.5e12)
    assert list(map(files.in_units, sizes)) == ["0 bytes", "980 bytes", "3.21 MB", "140 GB", "2.5 TB"]


def test_what_a_killed_process_has_left_goes_at_the_next_write(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from bench.core.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as unfinished:\n"
        "    unfinished.write_text('half'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "content.json"
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    running = left.with_name(left.name.replace(left.name.split("-")[-1], f"{os.getppid()}.json"))
    running.write_text("half")
    files.write_json(path, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"content.json", running.name}


def test_a_full_disk_ends_a_command_with_one_line(tmp_path, capsys):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file"))

    assert exit_code(main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "file cannot be written: No space left on device" in line and "same command again" in line
