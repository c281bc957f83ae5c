"""Laws of `wsiseg info` and `wsiseg models`."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from command_line import complaint, run_record, succeed, wsiseg

pytestmark = pytest.mark.usefixtures("cheap_models")


def test_info(made, bare):
    about = json.loads(wsiseg("info", made / "a.svs", "--json").stdout)
    assert (about["width"], about["height"], about["mpp"]["x"]) == (768, 768, 0.25)
    plan = about["model"]
    assert plan["scale"] == plan["mpp"] / 0.25
    assert (plan["regions"], plan["tiles"]) == (1, 1)
    shown = wsiseg("info", made / "a.svs").stdout
    assert "0.25 x 0.25 µm (metadata)" in shown
    assert "1 region, 1 tile" in shown
    assert "unknown; give --mpp" in wsiseg("info", bare).stdout
    assert "0.4 x 0.4 µm (--mpp)" in wsiseg("info", bare, "--mpp", 0.4).stdout
    assert "'x'" in complaint(wsiseg("info", made / "a.svs", "--model", "x"), 2)
    assert "no.svs" in complaint(wsiseg("info", "no.svs"), 2)


@pytest.mark.parametrize("model", ["dssnet", "donet"])
def test_info_counts_the_regions_that_a_run_works_on(model, tmp_path):
    slide = tmp_path / "wide.png"
    pixels = np.full((600, 5000, 3), 240, np.uint8)
    for x in range(100, 3000, 90):
        cv2.circle(pixels, (x, 300), 10, (90, 60, 110), -1)
    cv2.imwrite(str(slide), pixels)
    plan = json.loads(succeed("info", slide, "--mpp", 0.5, "--model", model, "--json"))["model"]
    succeed("run", slide, "--mpp", 0.5, "--model", model, "--out", tmp_path / "out")
    assert plan["regions"] == run_record(tmp_path)["regions"] > 1
    assert plan["tiles"] >= plan["regions"]


def test_models():
    header, line = wsiseg("models").stdout.splitlines()[:2]
    assert header.split()[:3] == ["name", "task", "classes"]
    assert line.startswith("dssnet")
    rows = json.loads(wsiseg("models", "--json").stdout)
    assert rows[0] == json.loads(wsiseg("models", "dssnet").stdout)
    assert rows[0]["card"]["classes"] == ["nucleus"]
    assert "known: cascade, " in complaint(wsiseg("models", "nope"), 2)
