"""Requirements, versions and documents of the project agree with each other."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import wsi_pipeline

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CONDA_NAMES = {"dask-core": "dask", "python-isal": "isal", "pytorch": "torch"}
ONLY_PIP = {"geojson", "opencv-python-headless", "openslide-bin", "openslide-python"}

PIPELINE = sorted((ROOT / "wsi_pipeline").rglob("*.py"))
MODELS = sorted((ROOT / "models").rglob("*.py"))


def imports(path):
    """Yield all imports of a file, as (dots, module, names)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            yield from ((0, a.name, []) for a in node.names)


def test_help_loads_no_large_library():
    code = (
        "import sys, wsi_pipeline\n"
        "from click.testing import CliRunner\n"
        "from wsi_pipeline.cli.main import cli\n"
        "def loaded_by_help(*commands):\n"
        "    for command in commands:\n"
        "        shown = CliRunner().invoke(cli, [*command.split(), '--help'])\n"
        "        assert shown.exit_code == 0, shown.output\n"
        "    large = {'torch', 'numpy', 'cv2', 'numba', 'dask', 'tqdm'}\n"
        "    return sorted(large & set(sys.modules))\n"
        "others = [name for name in cli.list_commands(None) if name != 'train']\n"
        "print(loaded_by_help('', *others), loaded_by_help('train'))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The options of training come from dataclasses of modules that compute with NumPy.
    assert shown.stdout.strip() == "[] ['cv2', 'numpy']"


def test_public_names_are_there_and_no_others():
    assert [name for name in wsi_pipeline.__all__ if not hasattr(wsi_pipeline, name)] == []
    assert set(wsi_pipeline.__all__) <= set(dir(wsi_pipeline))
    with pytest.raises(AttributeError, match="run_slides"):
        _ = wsi_pipeline.run_slides


def test_one_version_everywhere():
    assert wsi_pipeline.__version__ == version("wsiseg") == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    changes = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert changes[0] == "Unreleased"
    assert len(changes) == 1 or changes[1] == PROJECT["version"]


def test_the_console_script_is_the_command_line():
    (script,) = entry_points(group="console_scripts", name="wsiseg")
    assert script.load() is importlib.import_module("wsi_pipeline.cli.main").main


def test_conda_and_pip_ask_for_the_same():
    wanted = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip == {"pip": ["-e ."]}
    given = {r.name: r.specifier for r in map(Requirement, conda)}
    assert str(given.pop("python")) == PROJECT["requires-python"]
    given.pop("pip")
    assert {CONDA_NAMES.get(k, k): v for k, v in given.items()} == {
        k: v for k, v in wanted.items() if k not in ONLY_PIP
    }
    assert set(wanted) >= ONLY_PIP


def test_what_is_imported_is_required():
    names = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "openslide": "openslide-python",
        "segmentation_models_pytorch": "segmentation-models-pytorch",
        "skimage": "scikit-image",
        "yaml": "pyyaml",
    }
    required = {Requirement(r).name for r in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    optional = {Requirement(r).name for e in extras if e != "dev" for r in extras[e]}
    assert optional <= {Requirement(r).name for r in extras["dev"]}, "dev tests all extras"
    own = {"wsi_pipeline", "wsiseg_models", *sys.stdlib_module_names}
    for path in PIPELINE + MODELS:
        for dots, module, _ in imports(path):
            top = module.partition(".")[0]
            if not dots and top not in own:
                assert names.get(top, top) in required | optional, (path, top)


def test_the_licence_is_the_standard_text():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert PROJECT["license"] == "Apache-2.0"
