"""Methods in files of the user's: their neighbours, their names, and what makes them another method."""

import pytest

from bench.config import resolve
from bench.core.errors import UserError

METHOD = "from methods.base import Method\n\n\nclass Mine(Method):\n    weight: float = 0.5\n"


@pytest.fixture
def method_file(tmp_path):
    path = tmp_path / "one" / "mine.py"
    path.parent.mkdir()
    path.write_text(METHOD)
    return path


def run_id(path):
    return resolve.run_spec(str(path), "sit-pico", "digits", 0).run_id


def test_a_method_file_imports_its_neighbours(method_file):
    """Of two folders with neighbours of one name each gets its own."""
    other = method_file.parents[1] / "two" / "mine.py"
    other.parent.mkdir()
    for path, value in ((method_file, 1), (other, 2)):
        path.write_text("from terms import VALUE\n" + METHOD.replace("0.5", "VALUE"))
        (path.parent / "terms.py").write_text("from deeper import VALUE\n")
        (path.parent / "deeper.py").write_text(f"VALUE = {value}\n")
    assert [resolve.method_class(str(path))().weight for path in (method_file, other, method_file)] == [
        1,
        2,
        1,
    ]


def test_an_edited_neighbour_makes_another_run(method_file):
    method_file.write_text("import terms\n" + METHOD)
    (method_file.parent / "terms.py").write_text("import deeper\n")
    deeper = method_file.parent / "deeper.py"
    deeper.write_text("VALUE = 1\n")
    (method_file.parent / "unrelated.py").write_text("")
    before = run_id(method_file)
    (method_file.parent / "unrelated.py").write_text("VALUE = 2\n")
    assert run_id(method_file) == before
    deeper.write_text("VALUE = 2\n")
    assert run_id(method_file) != before


def test_a_method_file_is_the_same_wherever_it_lies(method_file, monkeypatch):
    moved = method_file.parents[1] / "mine.py"
    moved.write_text(METHOD)
    assert run_id(moved) == run_id(method_file)
    monkeypatch.setenv("HOME", str(moved.parent))
    assert run_id("~/mine.py") == run_id(moved)
    moved.write_text(METHOD + "\n")
    assert run_id(moved) != run_id(method_file)


def test_a_suffix_may_have_any_case(method_file):
    upper = method_file.rename(method_file.with_suffix(".PY"))
    assert resolve.method(f"{upper}[weight=2]").weight == 2


@pytest.mark.parametrize("text", ["raise OSError", "class:", "x = 1", "import nowhere_at_all"])
def test_a_file_that_is_no_method_gets_one_line(method_file, text):
    method_file.write_text(text)
    with pytest.raises(UserError) as refused:
        run_id(method_file)
    assert str(method_file) in str(refused.value) and "\n" not in str(refused.value)
