"""Laws of `wsiseg train`."""

from __future__ import annotations

import json
import sys

from command_line import FAST, complaint, wsiseg


def test_train_and_use_what_was_trained(a, tmp_path):
    fields = ("--fields", 4, "--size", 64, "--mpp", "0.4-0.5")
    assert wsiseg("synth", tmp_path / "data", *fields).exit_code == 0
    small = ("--width", 9, "--depth", 1, "--crop-px", 32, "--batch", 1, "--no-amp")
    train = ("train", "dssnet", "--data", tmp_path / "data", "--split", "fold:0/4", "--quiet",
             "--out", tmp_path / "t", "--device", "cpu", *small)  # fmt: skip
    assert wsiseg(*train, "--steps", 2).exit_code == 0
    told = wsiseg(*(a for a in train if a != "--quiet"), "--out", tmp_path / "u", "--steps", 2)
    assert "step 2 of 2" in told.stderr
    card = json.loads((tmp_path / "t" / "card.json").read_text())
    assert {"mIoU", "nucleus F1"} <= set(card["metrics"]["data"])
    assert card["options"] == {"classes": 2, "width": 9, "depth": 1}
    checkpoint = tmp_path / "t" / "dssnet.safetensors"
    result = wsiseg("run", a, "--checkpoint", checkpoint, "--out", tmp_path / "o", *FAST)
    assert result.exit_code == 0, result.output
    assert "another steps" in complaint(wsiseg(*train, "--steps", 3), 2)


def test_train_faults(tmp_path, monkeypatch):
    args = ("--out", tmp_path / "t", "--device", "cpu", "--data", tmp_path / "no")
    assert "known: cascade, " in complaint(wsiseg("train", "nope", *args), 2)
    assert "'rms'" in complaint(wsiseg("train", "dssnet", *args, "--optimizer", "rms"), 2)
    assert "crop_px 100" in complaint(wsiseg("train", "dssnet", *args, "--crop-px", 100), 2)
    assert str(tmp_path / "no") in complaint(wsiseg("train", "dssnet", *args), 2)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert "pip install -e '.[train]'" in complaint(wsiseg("train", "dssnet", *args), 2)
