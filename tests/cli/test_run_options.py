"""Every option of `wsiseg run` with every model starts or is refused before anything starts."""

from __future__ import annotations

import click
import pytest
from command_line import complaint, wsiseg

from wsi_pipeline.cli.main import cli
from wsi_pipeline.segmentation.model import shipped_cards

MODELS = ("dssnet", "unet", "donet", "cascade", "maskrcnn")
MARKED = [
    pytest.param(m, marks=pytest.mark.slow if m in ("unet", "cascade") else ()) for m in MODELS
]
"""With cheap networks, `unet` and `cascade` differ from the others in their cards alone."""
WITHOUT_WEIGHTS = {"maskrcnn"}
WITH_STAIN_RANGE = {name for name, card in shipped_cards().items() if card.stain}
STRIDE = {"dssnet": 8, "unet": 16, "donet": 32, "cascade": 32}

# Option → values, each with whether it is good; None: it depends on the stride of the model.
VALUES = {
    "checkpoint": [("no.safetensors", False), ("text.txt", False)],
    "kinds_checkpoint": [("no.safetensors", False), ("text.txt", False)],
    "device": [("auto", True), ("cpu", True), ("cuda:99", False), ("tpu", False)],
    "precision": [("auto", True), ("float32", True), ("bfloat16", True), ("float64", False)],
    "mpp": [("0.25", True), ("0", False), ("30", False), ("nan", False), ("x", False)],
    "series": [("0", True), ("-1", False), ("x", False)],
    "plane": [("0", True), ("-1", False), ("x", False)],
    "time": [("0", True), ("-1", False), ("x", False)],
    "foreground": [("auto", True), ("all", True), ("some", False)],
    "roi": [("roi.geojson", True), ("no.geojson", False), ("text.txt", False)],
    "tile_px": [("64", None), ("96", None), ("256", True), ("520", None), ("1000", None),
                ("1024", True), ("0", False), ("-64", False), ("257", False), ("9000", False)],
    "batch": [("1", True), ("3", True), ("0", False), ("-1", False), ("1.5", False)],
    "workers": [("1", True), ("3", True), ("0", False), ("5000", False)],
    "scheduler": [("no-scheduler.json", False)],
    "read_timeout_s": [("0.5", True), ("0", False), ("inf", False)],
    "threshold": [("0.02", True), ("0.98", True), ("0", False), ("1", False), ("nan", False)],
    "min_area_um2": [("0", True), ("40", True), ("-1", False), ("inf", False)],
    "min_score": [("0", True), ("1", True), ("-0.1", False), ("1.1", False)],
    "min_small_score": [("0", True), ("1", True), ("2", False)],
    "min_cell_score": [("0", True), ("1", True), ("2", False)],
}  # fmt: skip
FLAGS = ("split", "kinds", "adapt", "crop", "overwrite", "recursive", "images", "quiet")
ELSEWHERE = {"model", "out"}
"""Options that every test gives."""

ROI = (
    '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": '
    "[[[20, 20], [200, 20], [200, 150], [20, 150], [20, 20]]]}}"
)

pytestmark = pytest.mark.usefixtures("cheap_models")


def visible_options():
    params = cli.get_command(None, "run").params
    return {p.name: p for p in params if isinstance(p, click.Option) and not p.hidden}


def test_every_option_is_tried():
    assert {*VALUES, *FLAGS, *ELSEWHERE} == set(visible_options())


def starts(folder, slide, model, *args):
    """Whether a run starts, and then finishes; one that is refused says so in a line."""
    out = folder / "out"
    result = wsiseg("run", slide, "--model", model, "--out", out, *args)
    if result.exit_code == 0:
        assert len(list(out.rglob("run.json"))) == 1
        return True
    complaint(result, 1 if "--scheduler" in args else 2)
    assert not list(out.rglob("*.json"))
    return False


@pytest.fixture
def files(bare, tmp_path, monkeypatch):
    """The files that the values name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roi.geojson").write_text(ROI)
    (tmp_path / "text.txt").write_text("x")
    return bare


@pytest.mark.parametrize("model", MARKED)
@pytest.mark.parametrize("option", VALUES)
def test_a_value_starts_or_is_refused(option, model, files, tmp_path):
    for number, (value, good) in enumerate(VALUES[option]):
        mpp = () if option == "mpp" else ("--mpp", "0.25")
        given = (*mpp, f"--{option.replace('_', '-')}={value}")
        started = starts(tmp_path / str(number), files, model, *given)
        if model in WITHOUT_WEIGHTS:
            assert not started
        else:
            good = int(value) % STRIDE[model] == 0 if good is None else good
            assert started == good, (value, good)


@pytest.mark.parametrize("model", MARKED)
@pytest.mark.parametrize("option", FLAGS)
def test_a_flag_starts(option, model, files, tmp_path):
    flag = visible_options()[option]
    for number, name in enumerate([*flag.opts, *flag.secondary_opts]):
        started = starts(tmp_path / str(number), files, model, "--mpp", "0.25", name)
        can = model in WITH_STAIN_RANGE or name != "--adapt"
        assert started == (can and model not in WITHOUT_WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted({*MODELS} - WITHOUT_WEIGHTS))
@pytest.mark.parametrize("tile", ["96", "520"])
def test_a_real_network_takes_a_tile_or_it_is_refused(tile, model, files, tmp_path, real_models):
    # Quietly, since a busy machine announces that loading takes long, which is a line more.
    started = starts(tmp_path, files, model, "--mpp", "0.25", "--tile-px", tile, "--quiet")
    assert started == (int(tile) % STRIDE[model] == 0)
