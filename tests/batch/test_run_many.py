"""Laws of many slides: arguments first, each slide opened once, each model loaded once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline import pipeline
from wsi_pipeline.batch.run_many import run_slides
from wsi_pipeline.batch.slide_sheet import find_slides
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import CheckpointError, DeviceError, UnknownModelError, UsageError
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.segmentation import load_model


@pytest.fixture
def loaded(monkeypatch, darkness):
    """Names of the models that were loaded; each is `Darkness` under that name."""
    names = []

    def load(config):
        names.append(config.model)
        return replace(darkness, name=config.model)

    monkeypatch.setattr(load_model, "model_for", load)
    return names


@pytest.fixture
def opened(monkeypatch):
    """How often each slide was opened."""
    counts, real = Counter(), pipeline.open_slide

    def count(slide, **options):
        counts[slide.path.name] += 1
        return real(slide, **options)

    monkeypatch.setattr(pipeline, "open_slide", count)
    return counts


def test_each_slide_is_opened_once_and_each_model_loaded_once(made, tmp_path, loaded, opened):
    slides = [SlideRequest(made / f"{name}.svs") for name in ("words", "a", "b")]
    both = [*slides, SlideRequest(made / "c.svs", model="donet")]
    outcomes = run_slides(both, RunConfig(out=tmp_path, quiet=True))
    assert [one.failed for one in outcomes] == [True, False, False, False]
    assert opened == {"words.svs": 1, "a.svs": 1, "b.svs": 1, "c.svs": 1}
    assert loaded == ["dssnet", "donet"]
    assert outcomes[3].result.folder == tmp_path / "c" / "donet"


def test_no_model_is_loaded_for_slides_that_cannot_be_used(made, tmp_path, loaded):
    cv2.imwrite(str(tmp_path / "bare.png"), np.full((99, 99, 3), 200, np.uint8))
    slides = [SlideRequest(p) for p in (made / "words.svs", tmp_path / "bare.png", Path("gone"))]
    causes = [one.cause for one in run_slides(slides, RunConfig(out=tmp_path, quiet=True))]
    assert loaded == []
    for cause, words in zip(causes, ("cannot be read", "no pixel size", "exist"), strict=True):
        assert words in cause


def test_a_slide_without_pixel_size_fails_before_torch_is_imported(tmp_path):
    cv2.imwrite(str(tmp_path / "bare.png"), np.full((99, 99, 3), 200, np.uint8))
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from wsi_pipeline.cli.main import cli\n"
        "for args in (['bare.png'], ['bare.png', '--model', 'nope'], ['no.png', 'bare.png']):\n"
        "    ended = CliRunner().invoke(cli, ['run', *args])\n"
        "    print(ended.exit_code, ended.output.strip())\n"
        "print('torch' in sys.modules, 'numba' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    pixel_size, model, missing, imported = ended.stdout.splitlines()
    assert pixel_size.startswith("1 wsiseg: bare.png has no pixel size")
    assert model.startswith("2 wsiseg: there are no weights for a model 'nope'; known: cascade")
    assert missing.startswith("2 wsiseg: no.png does not exist")
    assert imported.startswith("False")
    assert not list(tmp_path.glob("out/*"))


def test_a_sheet_gives_model_and_regions_to_single_slides(tmp_path, made, loaded, darkness):
    slides = find_slides([str(made / "slides.csv")], missing_ok=True)
    picked = [SlideRequest(made / "c.svs", model="donet"), slides[1], slides[0], slides[2]]
    a, b, c, words = run_slides(picked, RunConfig(out=tmp_path, quiet=True))
    assert loaded == ["donet", "dssnet"]
    assert [one.failed for one in (a, b, c, words)] == [False, False, False, True]
    assert b.result.summary["settings"]["roi"] == str(made / "half.geojson")
    assert a.result.summary["settings"]["roi"] is None
    assert a.result.summary["settings"]["model"] == "donet"
    assert c.result.summary["slide"]["mpp"]["source"] == "slide sheet"
    whole = run_slide(made / "b.svs", RunConfig(out=tmp_path / "whole", quiet=True), model=darkness)
    assert 0 < b.result.objects < whole.objects


# --- arguments that are refused before anything is opened


def refused(slides, tmp_path, error, words, **settings):
    with pytest.raises(error, match=words):
        run_slides(slides, RunConfig(out=tmp_path / "out", quiet=True, **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        ("a.svs,,r.geojson", {"roi": Path("r.geojson")}, "roi"),
        ("a.svs,donet,", {"checkpoint": Path("w.safetensors")}, "--checkpoint"),
    ],
)
def test_a_sheet_and_the_settings_may_not_contradict(tmp_path, row, settings, words, opened):
    (tmp_path / "s.csv").write_text(f"slide,model,roi\n{row}\n")
    slides = find_slides([str(tmp_path / "s.csv")], missing_ok=True)
    refused(slides, tmp_path, UsageError, words, **settings)
    assert not opened


def test_arguments_are_checked_before_a_slide_is_opened(made, tmp_path, opened):
    a, b = SlideRequest(made / "a.svs"), SlideRequest(made / "b.svs")
    refused([a, replace(b, model="nope")], tmp_path, UnknownModelError, r"'nope'; known: .*dssnet")
    missing = {"roi": tmp_path / "r.geojson", "checkpoint": tmp_path / "w"}
    refused([a], tmp_path, UsageError, r"r\.geojson, .*w do not exist", **missing)
    (tmp_path / "w").write_text("no weights")
    refused([a], tmp_path, CheckpointError, "not a safetensors file", checkpoint=tmp_path / "w")
    same = [a, SlideRequest(tmp_path / "a.svs")]
    refused(same, tmp_path, UsageError, r"are both slide 'a' and have the same run folder")
    refused([a, replace(a, model="dssnet", path=b.path.with_name("a.tif"))], tmp_path, UsageError,
            "same run folder")  # fmt: skip
    assert not opened


def test_a_device_that_is_not_there_ends_the_run(made, tmp_path):
    slides = [SlideRequest(made / "words.svs"), SlideRequest(made / "a.svs")]
    with pytest.raises(DeviceError, match="tpu"):
        run_slides(slides, RunConfig(out=tmp_path, quiet=True, device="tpu"))
    assert not list(tmp_path.glob("*/*"))


def test_what_was_done_is_kept_when_a_later_model_cannot_be_loaded(made, tmp_path, monkeypatch,
                                                                   darkness):  # fmt: skip
    def load(config):
        if config.model == "donet":
            raise CheckpointError("donet.safetensors: weights do not fit donet")
        return darkness

    monkeypatch.setattr(load_model, "model_for", load)
    slides = [SlideRequest(made / "a.svs"), SlideRequest(made / "b.svs", model="donet")]
    a, b = run_slides(slides, RunConfig(out=tmp_path, quiet=True))
    assert not a.failed
    assert b.cause == "donet.safetensors: weights do not fit donet"


def test_one_slide_with_two_models_has_two_runs(made, tmp_path, loaded):
    slides = [SlideRequest(made / "a.svs", model=name) for name in ("dssnet", "donet")]
    outcomes = run_slides(slides, RunConfig(out=tmp_path, quiet=True))
    assert [one.result.folder.name for one in outcomes] == ["dssnet", "donet"]
    for name in ("dssnet", "donet"):
        assert json.loads((tmp_path / "a" / name / "run.json").read_text())["model"]["name"] == name
