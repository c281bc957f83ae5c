"""Laws of the project itself: requirements, layout, the order of the stages."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement

import wsi_pipeline

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Every module may import those before it. What objects look like in a file (export) is fixed
# before they are made (segment), so that an outline is cleaned once.
ORDER = """
errors names config progress lock stopping deadline
tiling objects resample readers tiff direct slide foreground focus canvas model
registry inference instances contours features metrics cell_metrics instance_metrics
export._grammar export._format export._part export._geometry export._read export._writer
export.geojson export.parquet export.labels export.coco export
segment stitch cells salvage store cluster_work cluster picture results pipeline
page object_table summary cohort report
synth_cells synth_bank synth_plan synth_render synth_fields synth
evaluate evaluation describe commands training slides stage workflow_plan workflow doctor
stand_in benchmark_machine benchmark_stages benchmark_paper benchmark_report benchmark cli
""".split()  # noqa: SIM905

CONDA_NAMES = {"dask-core": "dask", "python-isal": "isal", "pytorch": "torch"}
ONLY_PIP = {"geojson", "opencv-python-headless", "openslide-bin", "openslide-python"}

PIPELINE = sorted((ROOT / "wsi_pipeline").rglob("*.py"))
MODELS = sorted((ROOT / "models").rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT / "wsi_pipeline").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """What a file imports anywhere in it, as (dots, module, names)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            yield from ((0, a.name, []) for a in node.names)


def stages_used(path):
    package = path.relative_to(ROOT).parent.parts
    for dots, module, names in imports(path):
        if dots:
            module = ".".join([*package[: len(package) - dots + 1], *filter(None, [module])])
        if module == "wsi_pipeline":
            yield from names
        elif module.startswith("wsi_pipeline."):
            yield module.removeprefix("wsi_pipeline.")


def test_every_stage_has_its_place():
    assert sorted(ORDER) == sorted(filter(None, map(module_name, PIPELINE)))


@pytest.mark.parametrize("path", [p for p in PIPELINE if module_name(p)], ids=module_name)
def test_no_stage_imports_a_later_one(path):
    earlier = ORDER[: ORDER.index(module_name(path))]
    assert [stage for stage in stages_used(path) if stage not in earlier] == []


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_models_stand_alone(path):
    for dots, module, _ in imports(path):
        assert module.partition(".")[0] not in ("wsi_pipeline", "wsiseg_models", "models") or dots


@pytest.mark.parametrize("path", PIPELINE, ids=module_name)
def test_only_the_registry_imports_networks(path):
    used = {module for dots, module, _ in imports(path) if not dots}
    networks = {m for m in used if m.startswith("wsiseg_models")}
    names = ["datasets", "registry", "train"]
    names += [f"instance.{name}" for name in ("clusters", "config", "train")]
    training = {"training": {f"wsiseg_models.{n}" for n in names}}
    samples = {name: {"wsiseg_models.datasets"} for name in ("evaluate", "evaluation")}
    cards = {"model": {"wsiseg_models.checkpoint", "wsiseg_models.instance.instances"}}
    paper = {"benchmark_paper": {"wsiseg_models.unet"}}  # a network that nothing else needs
    if module_name(path) != "registry":
        assert networks <= (training | samples | cards | paper).get(module_name(path), set())


def isort_key(name):
    return not name.isupper(), not name[0].isupper(), name


@pytest.mark.parametrize("path", PIPELINE + MODELS, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_names_are_sorted_and_there(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
            assert names == sorted(names, key=isort_key)
            home = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            home = home.removesuffix(".__init__").replace("models", "wsiseg_models", 1)
            module = importlib.import_module(home)
            assert [name for name in names if not hasattr(module, name)] == []


def test_public_names_are_loaded_when_asked_for():
    code = (
        "import sys, wsi_pipeline, wsi_pipeline.cli\n"
        "print(sorted({'torch', 'numpy', 'cv2', 'numba', 'dask', 'tqdm'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
    assert set(wsi_pipeline.__all__) <= set(dir(wsi_pipeline))
    with pytest.raises(AttributeError, match="run_slides"):
        _ = wsi_pipeline.run_slides


def test_one_version_everywhere():
    assert wsi_pipeline.__version__ == version("wsiseg") == PROJECT["version"]
    assert "## [" in (ROOT / "CHANGELOG.md").read_text()


def test_the_console_script_is_the_command_line():
    (script,) = entry_points(group="console_scripts", name="wsiseg")
    assert script.load() is importlib.import_module("wsi_pipeline.cli").main


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
    names = {"PIL": "pillow", "cv2": "opencv-python-headless", "openslide": "openslide-python"}
    required = {Requirement(r).name for r in PROJECT["dependencies"]}
    optional = {Requirement(r).name for e in PROJECT["optional-dependencies"].values() for r in e}
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


@pytest.mark.parametrize("text", ["README.md", "docs/models.md"])
def test_the_python_that_documents_show_runs(text, slide_path, tmp_path, monkeypatch):
    shutil.copy(slide_path, tmp_path / "slide.svs")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / text).read_text(), re.DOTALL)
    names = {
        "my_function": lambda image: cv2.connectedComponents(np.uint8(image[..., 0] < 90))[1],
        "module": torch.nn.Conv2d(3, 2, 1),
    }
    for block in blocks:
        exec(block, names)
    assert len(list(tmp_path.glob("*/slide/objects.geojson.gz"))) == 1
