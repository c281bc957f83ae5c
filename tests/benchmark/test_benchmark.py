"""Laws of the benchmark: what is told was measured, and every file tells the same."""

import copy
import dataclasses
import json
import os
import platform
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_slides import NOISE, write_pyramid
from wsiseg_models.semantic.plain_unet import unet

from wsi_pipeline.benchmark import published as benchmark_paper
from wsi_pipeline.benchmark import report as benchmark_report
from wsi_pipeline.benchmark import run as benchmark_module
from wsi_pipeline.benchmark.published import PUBLISHED, compare_networks
from wsi_pipeline.benchmark.report import as_markdown, plot
from wsi_pipeline.benchmark.run import STAGES
from wsi_pipeline.cli.main import cli
from wsi_pipeline.segmentation.load_model import open_model


def wsiseg(*args):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module", params=[pytest.param("processes", marks=pytest.mark.slow)])
def ran(request, tmp_path_factory):
    """A tiny benchmark without a network: its folder and what it printed."""
    out = tmp_path_factory.mktemp("bench") / "out"
    with pytest.MonkeyPatch.context() as patch:
        # To compile everything anew takes a minute, which is what a cold start is.
        patch.setattr(benchmark_module, "caches", lambda work: {})
        for name in ("matplotlib", "matplotlib.figure"):  # as where it is not installed
            patch.setitem(sys.modules, name, None)
        result = wsiseg("benchmark", out, "--size", 1600, "--threshold-model", "--sizes", "0.0012")
    assert result.exit_code == 0, result.output
    return out, result


@pytest.fixture(scope="module")
def told(ran):
    return json.loads((ran[0] / "benchmark.json").read_text())


def rows(text, heading):
    """The cells of the table below a heading of a Markdown text, by column, by first cell."""
    lines = text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    table = [[c.strip() for c in x.strip("|").split("|")] for x in lines if x.startswith("|")]
    head, _, *rest = table
    return {cells[0]: dict(zip(head, cells, strict=True)) for cells in rest}


# --- the report


def test_every_stage_took_time(told):
    assert set(told["stages"]) == {*STAGES, "decode"}
    for row in (*told["stages"].values(), *told["whole"].values()):
        assert row["seconds"] > 0
        work, seconds = told["work"], row["seconds"]
        assert row["tiles_per_s"] == pytest.approx(work["tiles"] / seconds, rel=2e-3)
        assert row["mpx_per_s"] == pytest.approx(work["foreground_mpx"] / seconds, rel=2e-3)
    assert told["whole"]["warm"]["peak_memory_mb"] > 100
    assert told["whole"]["cold"]["objects"] == told["whole"]["warm"]["objects"] > 20


def test_the_ratios_are_those_of_the_times_told(told):
    slowest = max(told["stages"][name]["seconds"] for name in STAGES)
    assert told["stages"][told["slowest_stage"]]["seconds"] == slowest
    for name, key in (("whole_over_slowest", "seconds"), ("run_over_slowest", "run_seconds")):
        assert told[name] == round(told["whole"]["warm"][key] / slowest, 2)
    assert told["whole"]["warm"]["run_seconds"] < told["whole"]["warm"]["seconds"]


def test_screen_markdown_and_json_tell_the_same(ran, told):
    out, result = ran
    text = (out / "benchmark.md").read_text()
    assert result.stdout == text == as_markdown(told)
    shown = rows(text, "One slide")
    sources = {"whole, cold start": told["whole"]["cold"], "whole, warm": told["whole"]["warm"]}
    sources |= {"of that, decode" if k == "decode" else k: v for k, v in told["stages"].items()}
    assert set(shown) == set(sources)
    columns = {"s": "seconds", "tiles/s": "tiles_per_s", "Mpx/s": "mpx_per_s"}
    for name, row in sources.items():
        for column, key in columns.items():
            assert float(shown[name][column]) == row[key]
        memory = shown[name]["peak memory MB"]
        assert memory == (str(row["peak_memory_mb"]) if "whole" in name else "–")


def test_sizes_say_that_no_network_ran(ran, told):
    (size,) = told["sizes"]
    assert size["model"] == "threshold"
    assert size["seconds_per_mpx"] == pytest.approx(size["seconds"] / size["foreground_mpx"], 2e-3)
    text = (ran[0] / "benchmark.md").read_text()
    (row,) = rows(text, "Time and memory against size").values()
    assert (row["model"], float(row["run, s"])) == ("threshold", size["seconds"])
    assert "all of a run but the network" in text


def test_nothing_else_is_left_and_nobody_named(ran):
    out, result = ran
    assert {p.name for p in out.iterdir()} == {"benchmark.json", "benchmark.md"}
    assert "pip install -e '.[benchmark]'" in result.stderr
    text = (out / "benchmark.json").read_text() + result.stdout
    assert str(out.parent) not in text and os.path.expanduser("~") not in text
    assert platform.node() in ("", "localhost") or platform.node() not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_no_word_of_one(ran):
    assert "GPU" not in ran[1].stdout
    assert "gpu" not in (ran[0] / "benchmark.json").read_text()


def test_a_gpu_gets_its_columns_where_it_was_measured(told):
    seen = copy.deepcopy(told)
    seen["stages"]["network"] |= {"gpu_busy": 0.91, "gpu_busy_by": "NVML", "gpu_memory_mb": 1234}
    shown = rows(as_markdown(seen), "One slide")
    network = shown.pop("network")
    assert (network["GPU busy"], network["GPU memory MB"]) == ("0.91", "1234")
    assert {(r["GPU busy"], r["GPU memory MB"]) for r in shown.values()} == {("–", "–")}


def test_what_was_scaled_up_says_so(told):
    part = copy.deepcopy(told)
    assert "scaled up" not in as_markdown(told)
    part["stages"]["network"]["scaled"] = True
    shown = rows(as_markdown(part), "One slide")
    assert [k for k, r in shown.items() if "scaled up" in r["measured on"]] == ["network"]


def test_the_plot_is_a_picture(told):
    pytest.importorskip("matplotlib")
    for result in (told, {k: v for k, v in told.items() if k != "sizes"}):
        assert plot(result).startswith(b"\x89PNG")


def test_quiet_shows_nothing_and_writes_all(told, tmp_path, monkeypatch):
    def again(out, config):
        bench = benchmark_module._Bench(out, config, "cpu")
        return benchmark_module._write(out, copy.deepcopy(told), bench)

    monkeypatch.setattr(benchmark_module, "benchmark", again)
    result = wsiseg("benchmark", tmp_path, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert json.loads((tmp_path / "benchmark.json").read_text()) == told


# --- wrong usage


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--size", 10), "10 x 10"),
        (("--size", 10**6), "1000000"),
        (("--sizes", "large"), "large"),
        (("--sizes", "0.1,0"), "0.0 gigapixels"),
        (("--sizes", "nan"), "nan"),
        (("--sizes", "500"), "out of range"),
        (("--tiles", 5), "--paper"),
        (("--paper", "--tiles", 0), "--tiles 0"),
        (("--paper", "--tiles", 10**6), "29600"),
        (("--threshold-model", "--checkpoint", "mine.safetensors"), "--threshold-model"),
        (("--model", "resnet"), "dssnet"),
        (("--threshold-model", "--model", "donet"), "dssnet"),
        (("--model", "donet"), "instances"),
        (("--device", "tpu"), "tpu"),
        (("--sizes",), None),
    ],
)
def test_nonsense_is_refused_before_anything_starts(options, word, tmp_path, monkeypatch):
    out = tmp_path / "out"
    if word is None:  # --sizes takes what follows for its list, so OUT comes first
        result = wsiseg("benchmark", *options, out)
        word = "after OUT"
    else:
        result = wsiseg("benchmark", out, *options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1 and word in result.stderr
    assert not out.exists()


def test_sizes_alone_are_the_five(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        benchmark_module, "benchmark", lambda out, config: seen.append(config) or ""
    )
    wsiseg("benchmark", tmp_path, "--sizes")
    wsiseg("benchmark", tmp_path)
    assert [config.sizes for config in seen] == [(0.1, 0.3, 1, 3, 10), ()]


# --- the published comparison


def test_the_unet_is_the_published_one():
    network = unet()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(31.0e6, rel=0.002)
    widths = {m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)}
    assert widths == {64, 128, 256, 512, 1024, 2}
    with pytest.raises(ValueError, match="depth 0"):
        unet(depth=0)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_unet_keeps_the_shape_and_sees_every_pixel(depth):
    torch.manual_seed(0)
    network = unet(classes=3, width=4, depth=depth)
    x = torch.randn(2, 3, 32, 48, requires_grad=True)
    logits = network(x)
    assert logits.shape == (2, 3, 32, 48)
    logits.sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


@pytest.fixture
def light(monkeypatch, darkness):
    """Two networks that take no time."""
    monkeypatch.setattr(benchmark_paper, "unet", lambda: unet(width=2))
    opened = dataclasses.replace(open_model("dssnet", device="cpu"), network=darkness.network)
    monkeypatch.setattr(benchmark_paper, "open_model", lambda name, device: opened)


@pytest.fixture(scope="module")
def two_windows(tmp_path_factory):
    """Noise of 1403 x 1211 px, which holds two windows of 700 px at steps of 640."""
    path = tmp_path_factory.mktemp("windows") / "noise.tif"
    return write_pyramid(path, np.tile(NOISE, (3, 3, 1))[:1211, :1403], levels=1)


def test_both_networks_see_the_same_tiles(two_windows, light, monkeypatch):
    seen = {}
    real = benchmark_paper._network

    def watched(name, device):
        model, note = real(name, device)
        images = seen.setdefault(name, [])

        def keep(batch):
            images.append(batch)
            return model.network(batch)

        return dataclasses.replace(model, network=keep), note

    monkeypatch.setattr(benchmark_paper, "_network", watched)
    found = compare_networks(two_windows, device="cpu", threads=2, tiles=5)
    a, b = (np.concatenate(seen[name]) for name in ("dssnet", "unet"))
    assert a.shape == (5 + benchmark_paper.WARM_UP, 512, 512, 3) and np.array_equal(a, b)
    assert found["distinct_tiles"] == 2
    assert not np.array_equal(a[0], a[1]) and np.array_equal(a[-5], a[-3])


def test_extrapolated_figures_are_labelled(told, two_windows, light, monkeypatch):
    paper = compare_networks(two_windows, device="cpu", threads=1, tiles=2)
    assert paper["extrapolated"] and paper["tiles_measured"] == 2
    for row in paper["networks"].values():
        assert row["seconds_for_all"] == pytest.approx(row["seconds_measured"] * 14_800)
        assert row["tiles_per_s"] == pytest.approx(2 / row["network_seconds_measured"])
        assert row["network_seconds_measured"] <= row["seconds_measured"]
    title = "The published comparison"
    shown = rows(as_markdown(told | {"paper": paper}), title)
    assert set(shown) == set(PUBLISHED)
    columns = [c for c in shown["unet"] if " s for 29600 " in c]
    assert len(columns) == 2 and all("extrapolated from 2 tiles" in c for c in columns)
    monkeypatch.setattr(benchmark_paper, "TILES", 2)
    paper = compare_networks(two_windows, device="cpu", threads=1, tiles=2)
    assert not paper["extrapolated"]
    text = as_markdown(told | {"paper": paper})
    assert "extrapolated" not in text and "s for 2 (measured)" in text
    for name, row in rows(text, title).items():
        assert row["reading too, s for 2 (measured)"] == benchmark_report._n(
            paper["networks"][name]["seconds_measured"]
        )


def test_a_slide_without_a_window_is_refused(tmp_path):
    path = write_pyramid(tmp_path / "tiny.tif", np.tile(NOISE, (3, 1, 1))[:1200, :690], levels=1)
    with pytest.raises(ValueError, match="690 x 1200"):
        compare_networks(path, device="cpu", threads=1, tiles=1)
