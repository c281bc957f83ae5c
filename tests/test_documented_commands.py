"""What the documents tell to type runs: commands in the order in which they stand, and Python.

Commands run in this process, in a folder with small files of the names that the documents use, and
with the cheap networks of `cheap_models.py`. `NOT_RUN` lists the commands that are only parsed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cheap_models
import click
import cv2
import numpy as np
import pytest
import torch
from command_line import succeed
from wsiseg_models.checkpoint import weights_path

from wsi_pipeline.cli.main import cli
from wsi_pipeline.synthetic import placement

ROOT = Path(__file__).parent.parent
DOCUMENTS = [p for p in sorted(ROOT.glob("*.md")) if p.name != "CHANGELOG.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"

NOT_RUN = {
    r"--scheduler": "needs a Dask cluster; tests/runs/test_dask.py starts one",
    r"--device cuda": "needs a GPU",
    r"^wsiseg train": "takes minutes to hours; tests/cli/test_train.py trains for a few steps",
    r"^wsiseg dataset from-review": "needs ids of the run; tests/corrections makes such labels",
    r"--checkpoint r50/": "needs a detector; tests/models/test_detection_training.py trains one",
    r"^wsiseg view": "serves until it is stopped; tests/viewer and tests/cli/test_view.py start it",
    r"^wsiseg benchmark": "takes minutes; tests/benchmark runs it",
    r"^wsiseg reproduce": "takes minutes to days; tests/reproduce runs the smallest form",
    r"^wsiseg workflow SLIDES OUT": "names its arguments only",
}
"""Commands that are parsed and not run, with the reason."""

ONLY_SLOW = {
    r"^wsiseg workflow": "starts Snakemake",
}
"""Commands that only the slow test runs."""

SHORTER = {
    r"^wsiseg synth .*--fields": ("--fields", "2", "--size", "64"),
    r"^wsiseg synth .*--size": ("--size", "256"),
    r"^wsiseg spike": ("--count", "12"),
    r"^wsiseg workflow": ("--", "--dry-run"),  # tests/batch/test_workflow.py runs the jobs
}
"""Options that are added to make a command quick; the last one of a kind counts."""

PYTHON_NOT_RUN = {"docs/cluster.md": "starts jobs on SLURM"}

OTHER_PROGRAMS = {
    "--nworkers", "--nthreads", "--memory-limit", "--scheduler-file", "--resources", "--gres",
    "--dry-run", "--forceall", "--default-resources", "--set-resources", "--directory",
    "--slurm-status-command", "--rulegraph", "--index-url", "--extra-index-url", "--build-arg",
    "--gpus", "--rm", "--user", "--upgrade", "--strict", "--version", "--all",
    "--exclude-editable", "--force-reinstall", "--require-hashes",
}  # fmt: skip
"""Options in the documents that belong to Dask, Snakemake, SLURM, pip, Docker or git."""

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash expands the commands")


def name_of(document):
    return document.relative_to(ROOT).as_posix()


# --- what documents say


def blocks(text, language=None):
    """Code blocks: fenced ones of a language, or, without one, shell and indented ones."""
    fenced = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
    found = [(m.start(), m[2], m[3]) for m in fenced.finditer(text)]
    if language is not None:
        return [code for _, kind, code in found if kind == language]
    shell = [(at, code) for at, kind, code in found if kind in ("", "sh", "bash", "console")]
    outside = fenced.sub(lambda m: re.sub(r"[^\n]", " ", m[0]).rstrip(" "), text)
    indented = re.compile(r"(?:(?<=\n\n)|\A)(?:(?: {4}|\t)[^\n]*\n?|\n(?= {4}\S))+")
    shell += [
        (m.start(), re.sub(r"(?m)^(?: {4}|\t)", "", m[0]))
        for m in indented.finditer(outside)
        if m[0].strip()
    ]
    return [code for _, code in sorted(shell)]


def statements(block):
    """Commands of wsiseg and assignments of shell variables, each as one text."""
    text = ""
    for line in block.splitlines():
        text += line.removeprefix("$ ").rstrip()
        if text.endswith("\\"):
            text = text[:-1].rstrip() + " "
            continue
        try:
            shlex.split(text, comments=True)
        except ValueError:  # the end of a quoted text is still to come
            text += "\n"
            continue
        if re.match(r"wsiseg |\w+=\S", text):
            yield text
        text = ""


def commands(document):
    """Every command in a shell block, with the assignments before it in its block."""
    for block in blocks(document.read_text(encoding="utf-8")):
        before = []
        for text in statements(block):
            if text.startswith("wsiseg "):
                yield "\n".join(before), text
            else:
                before.append(text)


def matching(table, text):
    return next((value for pattern, value in table.items() if re.search(pattern, text)), None)


# --- running it


def arguments(assignments, text, folder):
    """Arguments of a command as bash hands them over, and the file its output goes to."""
    text, _, target = re.sub(r"\s+#.*", "", text).partition(" > ")
    script = f"{assignments}\nprintf '%s\\0' {text.removeprefix('wsiseg ')}"
    shown = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, check=True)
    return shown.stdout.decode().split("\0")[:-1], target.strip()


def parse(args):
    """Let click read the arguments of a command, without running it."""
    command, context, rest, name = cli, None, list(args), "wsiseg"
    try:
        while isinstance(command, click.Group):
            context = click.Context(command, context, name, **command.context_settings)
            name, command, rest = command.resolve_command(context, rest)
        command.make_context(name, list(rest), parent=context)
    except click.UsageError as error:
        raise AssertionError(f"{shlex.join(args)}: {error.format_message()}") from None


@pytest.fixture(scope="module")
def cheap():
    """Cheap networks, and generated slides of few different cells."""
    with cheap_models.cheap_models(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "SPRITES", 16)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory, cheap):
    """A folder with the files that documents name, all of them small."""
    folder = tmp_path_factory.mktemp("files")
    succeed("synth", folder / "slide.svs", "--size", 512, "--seed", 1, "--tissue", 0.9)
    (folder / "slides").mkdir()
    for name in ("slide.svs", "other.svs"):
        shutil.copy(folder / "slide.svs", folder / "slides" / name)
    field = np.full((200, 300, 3), 230, np.uint8)
    cv2.circle(field, (150, 100), 60, (170, 150, 140), -1)  # a cell and its nucleus
    cv2.circle(field, (150, 100), 15, (90, 50, 60), -1)
    cv2.imwrite(str(folder / "field.png"), field)
    recipes = Path("models", "training", "recipes")
    shutil.copytree(ROOT / recipes, folder / recipes)
    succeed("synth", folder / "DIR", "--fields", 2, "--size", 64, "--mpp", "0.5")
    succeed("synth", folder / "SETS/a", "--fields", 5, "--size", 128, "--mpp", "0.5")
    succeed("synth", folder / "isbi2014", "--fields", 5, "--size", 64, "--mpp", "0.5")
    (found,) = (folder / "isbi2014").glob("*.json")
    found.rename(found.with_name("annotations_train45.json"))
    (folder / "regions.geojson").write_text(
        '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": '
        "[[[0, 0], [400, 0], [400, 400], [0, 400], [0, 0]]]}}"
    )
    drawn = (folder / "regions.geojson").read_text(encoding="utf-8").replace("400", "90")
    for name in ("drawn", "corrected"):
        (folder / f"{name}.geojson").write_text(drawn, encoding="utf-8")
    shutil.copy(folder / "regions.geojson", folder / "areas.geojson")
    for name in ("images", "labels"):
        (folder / name).mkdir()
        cv2.imwrite(str(folder / name / "field.png"), field[..., 0] // 200)
    for checkpoint in ("runs/mine/dssnet", "donet/donet", "tuned/cascade", "learned/nucleus_kinds"):
        path = folder / f"{checkpoint}.safetensors"
        path.parent.mkdir(parents=True)
        path.symlink_to(weights_path(path.stem))
    (folder / "dates.csv").write_text("slide,date\nslide,2026-03-31\n", encoding="utf-8")
    (folder / "failed").mkdir()
    (folder / "failed/c.failed.json").write_text(
        '{"slide": "c.svs", "status": "failed", "cause": "c.svs cannot be read"}'
    )
    return folder


@pytest.fixture
def scratch(files, tmp_path, monkeypatch):
    """A copy of these files as the working directory."""
    folder = tmp_path / "scratch"
    shutil.copytree(files, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def run(document, folder, skipped):
    """Run a document's commands in `folder`; those that match `skipped` are parsed only."""
    if document != README:  # the README makes these itself
        succeed("run", "slide.svs", "--out", "results")
        shutil.copytree("results", "out")
    for block in blocks(document.read_text(encoding="utf-8"), "yaml"):
        if named := re.match(r"# (\w+\.yaml)\n", block):  # a file that the commands read
            (folder / named[1]).write_text(block, encoding="utf-8")
    for assignments, text in commands(document):
        args, target = arguments(assignments, text, folder)
        parse(args)
        if matching(skipped, text) is None:
            shown = succeed(*args, *(matching(SHORTER, text) or ()))
            if target:
                (folder / target).write_text(shown, encoding="utf-8")


def marked(document):
    """A document as a parameter; the one with the longest commands is slow."""
    slow = document.name == "models.md"
    return pytest.param(document, id=name_of(document), marks=pytest.mark.slow if slow else ())


@needs_bash
@pytest.mark.parametrize("document", [marked(d) for d in DOCUMENTS if any(commands(d))])
def test_documented_commands_run(document, scratch, cheap):
    run(document, scratch, {**NOT_RUN, **ONLY_SLOW})


@needs_bash
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["README.md", "docs/cohort.md"])
def test_documented_commands_run_with_the_networks_that_ship(name, scratch, cheap):
    with cheap_models.real_models():
        run(ROOT / name, scratch, NOT_RUN)


def test_the_readme_and_the_lists_are_read():
    found = [text for document in DOCUMENTS for _, text in commands(document)]
    assert len(found) > 30
    assert {text.split()[1] for text in found} >= set(cli.list_commands(None)) - {"score"}
    for pattern in (*NOT_RUN, *ONLY_SLOW, *SHORTER):
        assert any(re.search(pattern, text) for text in found), f"{pattern} matches no command"


# --- options


def options(command):
    """Every option that the help of a command shows, of `train` for each kind of model."""
    models = ("dssnet", "wubineh", "pgunet", "donet", "faster_rcnn", "nucleus_kinds")
    parts = {"train": models, "dataset": ("from-qupath", "from-review", "from-labels")}
    models = parts.get(command, ("",))
    return {
        option
        for model in models
        for option in re.findall(r"--[a-z][\w-]*", succeed(command, *model.split(), "--help"))
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_option_that_is_named_exists(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", text)
    every = {option for command in cli.list_commands(None) for option in options(command)}
    for span in spans:
        own, _, _ = span.partition(" -- ")
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", own))
        command = re.match(r"wsiseg (\w+)", span)
        known = options(command[1]) if command else every | OTHER_PROGRAMS
        assert named <= known, span


# --- Python


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if "```python" in d.read_text(encoding="utf-8")], ids=name_of
)
def test_documented_python_runs(document, scratch, cheap):
    names = {
        "my_function": lambda image: cv2.connectedComponents(np.uint8(image[..., 0] < 90))[1],
        "module": torch.nn.Conv2d(3, 2, 1),
    }
    python = blocks(document.read_text(encoding="utf-8"), "python")
    if name_of(document) in PYTHON_NOT_RUN:
        for block in python:
            compile(block, document.name, "exec")
        return
    for block in python:
        exec(block, names)
    runs = sum("run_slide(" in block for block in python)
    assert len(list(scratch.rglob("run.json"))) == runs
