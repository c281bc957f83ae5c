"""The package as a user installs it: a wheel built from the sdist, outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]
FOLDERS = {
    "wsi_pipeline": "wsi_pipeline",
    "wsiseg_models": "models",
    "wsiseg_workflows": "workflows",
}
NOT_SHIPPED = {"__pycache__", ".git", ".venv", "build", "dist", "demo", "wsiseg.egg-info"}


def packages_in_the_checkout() -> set[str]:
    found = set()
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inner = path.parent.relative_to(ROOT / folder).parts
            if (path.parent / "__init__.py").exists():
                found.add(".".join([package, *inner]))
    return found


def data_in_the_checkout() -> set[str]:
    """Files beside the code that a program needs, by their names in the wheel."""
    return {
        "/".join([package, *path.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc", ".pyo", ".nbi", ".nbc", ".lock")
        and "__pycache__" not in path.parts
    }


def test_every_package_is_listed():
    assert set(SETUPTOOLS["packages"]) == packages_in_the_checkout()


def run(*command: object, cwd: Path, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the unpacked sdist of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "checkout"
    shutil.copytree(
        ROOT, copy, ignore=lambda _, names: [n for n in names if n in NOT_SHIPPED or n[0] == "."]
    )
    build = (
        "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])('.'))"
    )
    sdist = copy / run("-c", build, "build_sdist", cwd=copy).split()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    assert (unpacked / "tests" / "conftest.py").exists()
    assert (unpacked / "docs" / "models.md").exists()
    return unpacked / run("-c", build, "build_wheel", cwd=unpacked).split()[-1]


@pytest.mark.slow
def test_the_wheel_holds_all_code_and_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    code = {n for n in names if n.endswith(".py")}
    assert names - code == data_in_the_checkout()
    assert {str(Path(n).parent).replace(os.sep, ".") for n in code if "scripts" not in n} == set(
        SETUPTOOLS["packages"]
    )
    assert {n.partition("/")[0] for n in names} == set(FOLDERS)


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    place = {"PYTHONPATH": str(site)}
    where = "import wsi_pipeline as w, wsiseg_workflows as v; print(w.__file__, v.__file__)"
    package, workflows = map(Path, run("-c", where, cwd=tmp_path, **place).split())
    assert package.is_relative_to(tmp_path) and workflows.is_relative_to(tmp_path)
    assert workflows.with_name("Snakefile").exists()
    assert list((site / "bin").glob("wsiseg*")) != []
    wsiseg = ("-m", "wsi_pipeline")
    assert "Usage: wsiseg" in run(*wsiseg, "--help", cwd=tmp_path, **place)
    models = run(*wsiseg, "models", "--json", cwd=tmp_path, **place)  # the weights that ship
    cards = {row["name"]: row["card"] for row in json.loads(models)}
    assert all(cards[name]["licence"] for name in ("dssnet", "donet", "cascade"))
