"""What is published is what is tracked: files of the wheel, extras, lock file, version."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("backbones", "bench", "methods")
BUILD = """
import os, sys, tarfile
from setuptools import build_meta
out = sys.argv[1]  # build_meta changes sys.argv
archive = build_meta.build_sdist(out)
tarfile.open(f"{out}/{archive}").extractall(out, filter="data")
os.chdir(f"{out}/{archive.removesuffix('.tar.gz')}")
build_meta.build_wheel(out)
"""


def tracked(*folders: str) -> set[str]:
    """Files that git knows, by path below the root."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def test_the_wheel_made_from_the_source_distribution_has_every_file_of_the_packages(tmp_path):
    expected = tracked(*PACKAGES)
    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    for name in expected | {"pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as archived:
        assert any(name.endswith("/CHANGELOG.md") for name in archived.getnames())


def test_the_extra_all_has_every_extra_of_users():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(extras) - {"all", "test", "docs"}  # those two are the developers'


def test_the_lock_file_satisfies_the_project_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    pinned = {
        name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }
    extras = PROJECT["optional-dependencies"]
    wanted = [
        *PROJECT["dependencies"],
        *(item for name, items in extras.items() if name != "docs" for item in items),
    ]
    missing = []
    for requirement in map(Requirement, wanted):
        version = pinned.get(requirement.name.lower().replace("_", "-"), "")
        if requirement.name != PROJECT["name"] and not (version and requirement.specifier.contains(version)):
            missing.append(f"{requirement}: {version or 'not locked'}")
    assert not missing, "run `make lock`"


def test_release_notes_are_a_section_of_the_changelog():
    command = [str(ROOT / ".ci" / "release-notes")]
    notes = subprocess.run([*command, "0.1.0"], capture_output=True, text=True, check=True).stdout
    assert notes in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert notes.startswith("- `make quickstart`") and "## " not in notes
    assert subprocess.run([*command, "0.0.9"], capture_output=True, check=False).returncode == 1


def test_versions_agree():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None and newest is not None
    assert cited[1] == newest[1] == PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", PROJECT["version"])
