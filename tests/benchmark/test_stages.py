"""Laws of the stages that the benchmark times: the work of a run, one stage at a time."""

import dataclasses
import time

import numpy as np
import pytest

from wsi_pipeline.benchmark import stages as benchmark_stages
from wsi_pipeline.benchmark.stages import Work, time_network, time_objects
from wsi_pipeline.benchmark.threshold_model import make_threshold_model
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.matching import match_objects
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.synthetic.svs_writer import plan_slide, truth_objects, write_slide


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A slide with empty glass, of several regions."""
    path = tmp_path_factory.mktemp("sparse") / "sparse.svs"
    write_slide(path, plan_slide(2500, 2150, mpp=0.5, seed=5, tissue=0.1))
    return path


@pytest.mark.slow
def test_the_work_is_that_of_a_run(sparse, tmp_path):
    model = make_threshold_model("dssnet")
    summary = run_slide(sparse, RunConfig(out=tmp_path, quiet=True), model=model).summary
    with open_slide(sparse) as slide:
        work = Work(slide, model, RunConfig())
    assert len(work.regions) == summary["regions"] < 9
    assert work.foreground_mpx * 1e6 == pytest.approx(
        summary["foreground"]["share"] * 2500 * 2150, rel=1e-3
    )
    side = model.tile_px + 2 * model.halo_px
    assert {(t.width, t.height) for t in work.tiles} == {(side, side)}
    whole = {(r.core.x0 - 64, r.core.y0 - 64) for r in work.regions}
    assert len(work.tiles) <= 4 * len(whole)


def test_objects_alone_neither_read_nor_compute(sparse, monkeypatch):
    model = make_threshold_model("dssnet")
    calls = []

    def counted(what, real):
        return lambda *given: calls.append(what) or real(*given)

    with open_slide(sparse) as slide:
        network = counted("network", model.network)
        work = Work(slide, dataclasses.replace(model, network=network), RunConfig())
        monkeypatch.setattr(slide, "read_scaled", counted("read", slide.read_scaled))
        real, during = work.in_threads, []

        def watched(task, items):
            before = len(calls)
            seconds = real(task, items)
            during.append(len(calls) - before)
            return seconds

        monkeypatch.setattr(work, "in_threads", watched)
        stage = time_objects(work, cheap=True)
    assert {"network", "read"} <= set(calls)
    assert during and set(during) == {0}
    assert stage.seconds > 0 and not stage.scaled


def test_the_network_is_scaled_to_all_tiles(sparse, monkeypatch):
    """A network of known speed, stopped after three calls, is told for every tile of the slide."""
    monkeypatch.setitem(benchmark_stages.STEADY_S, "cpu", 0.0)

    def slow(images):
        time.sleep(0.05)
        return np.zeros((1, 1, *images.shape[1:3]), np.uint8)

    with open_slide(sparse) as slide:
        work = Work(
            slide, dataclasses.replace(make_threshold_model("dssnet"), network=slow), RunConfig()
        )
        stage = time_network(work)
    total = len(work.tiles)
    assert total > 3 and stage.scaled and stage.measured_on == f"3 tiles for {total}"
    assert 0.05 * total <= stage.seconds < 0.2 * total


def test_the_stand_in_gives_objects_their_true_load(plan, slide_path, tmp_path):
    result = run_slide(
        slide_path, RunConfig(out=tmp_path, quiet=True), model=make_threshold_model("dssnet")
    )
    truth, _ = truth_objects(plan)
    match = match_objects(read_parquet(result.folder / "objects.parquet"), truth, 0.5)
    assert match.f1 > 0.6
    assert match.predicted == pytest.approx(match.true, rel=0.3)
