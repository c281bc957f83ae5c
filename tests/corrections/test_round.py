"""The round of docs/correct-and-learn.md with a network that ships: corrected, learned, used."""

import json

import numpy as np
import pytest
from command_line import FAST, succeed
from qupath_files import annotation
from shapely import box
from wsiseg_models.checkpoint import read_card

from wsi_pipeline.corrections.from_qupath import CHANGES
from wsi_pipeline.formats.convert import read_objects


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_round(slide_path, tmp_path):
    out, model = tmp_path / "out", ("--model", "unet")
    succeed("run", slide_path, *model, "--out", out, *FAST)
    run = out / "crowded" / "unet"
    succeed("export", run, tmp_path / "editable.geojson", "--object-type", "annotation")
    document = json.loads((tmp_path / "editable.geojson").read_text("utf-8"))
    areas = [annotation(box(x, 60, x + 300, 700), "Checked") for x in (60, 380, 690)]
    kept = document["features"][::2]  # every other object is removed
    corrected = tmp_path / "corrected.geojson"
    corrected.write_text(json.dumps({"type": "FeatureCollection", "features": [*kept, *areas]}))
    data = tmp_path / "data"
    args = (slide_path, corrected, "--run", run, "--area-class", "Checked")
    assert "removed" in succeed("dataset", "from-qupath", *args, "--out", data)
    (told,) = json.loads((data / CHANGES).read_text("utf-8"))["slides"]
    assert told["changes"]["removed"] and told["fields"] == 3 and told["held_out"] == 1
    tuned = tmp_path / "tuned"
    shown = succeed(
        "train", "unet", "--from", "shipped", "--data", data, "--out", tuned, "--steps", 4,
        "--replay", 5, "--crop-px", 64, "--batch", 2, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert "data: nucleus" in shown and "replay: nucleus" in shown
    checkpoint = tuned / "unet.safetensors"
    assert read_card(checkpoint).training["started from"]["tuned"]["fresh"] == 0
    succeed("run", slide_path, "--checkpoint", checkpoint, "--out", tmp_path / "again", *FAST)
    succeed("evaluate", "--checkpoint", checkpoint, "--data", data, "--quiet", "--out",
            tmp_path / "scores")  # fmt: skip
    succeed("import", *args, "--out", tmp_path / "reviewed")
    reviewed = read_objects(tmp_path / "reviewed" / "crowded" / "unet-corrected")
    assert len(reviewed) == len(kept)
    assert np.isfinite(reviewed.features["Nucleus: OD mean"]).all()
    succeed("report", tmp_path / "reviewed", "--out", tmp_path / "page.html")
