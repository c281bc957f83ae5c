"""Segment the regions of a slide on the workers of a Dask cluster.

This machine plans, writes and stitches as it does without a cluster. A worker gets everything
that a region needs, and answers with the content of its part. Only the slide's file is shared.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ClusterError
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.core.records import SCHEMA_VERSION
from wsi_pipeline.runs.dask_client import Cluster, WorkersDied
from wsi_pipeline.runs.dask_worker import describe_model, segment_region, weights_of
from wsi_pipeline.runs.job import Job
from wsi_pipeline.runs.messages import (
    ModelAnswer,
    ModelRequest,
    RegionAnswer,
    RegionRequest,
    SlideTask,
)
from wsi_pipeline.segmentation.boxes import BoxModel
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.nuclei import PixelModel

__all__ = ["RemoteNetwork", "remote_model", "run_on_cluster"]

_KINDS: Mapping[str, type[Model]] = {c.__name__: c for c in (PixelModel, InstanceModel, BoxModel)}
"""Kinds of networks that workers open."""


class RemoteNetwork:
    """`Model.network` of a model that only the workers of a cluster have opened."""

    def __call__(self, images: Any) -> Any:
        """Raise RuntimeError."""
        raise RuntimeError("the network is on the workers of a cluster, not here")


def remote_model(config: RunConfig) -> Model:
    """Return the model that the workers of `config.scheduler` will use; open no network here.

    Raises
    ------
    ClusterError, UsageError, CheckpointError
        no cluster, one with other software, or the model cannot be opened there
    """
    with Cluster(config) as cluster:
        request: ModelRequest = {
            "schema_version": SCHEMA_VERSION,
            "wsiseg": cluster.version,
            "config": cluster.pickled(_for_workers(config, config.precision)),
        }
        with closing(cluster.map(describe_model, [(0, (request,))])) as answers:
            ((_, answer),) = answers
    if isinstance(answer, WorkersDied):
        raise ClusterError(f"opening {config.model}: {answer.cause}")
    described = cast(ModelAnswer, answer)
    return _KINDS[described["kind"]](**described["fields"], network=RemoteNetwork())


def _for_workers(config: RunConfig, precision: str) -> RunConfig:
    """Return a run's settings for workers, which may run in other folders.

    All workers use one precision, even if only some of them have bfloat16 in hardware.
    """
    checkpoint, kinds = (p and p.absolute() for p in (config.checkpoint, config.kinds_checkpoint))
    return replace(
        config, checkpoint=checkpoint, kinds_checkpoint=kinds, precision=precision, scheduler=None
    )


def run_on_cluster(
    job: Job, regions: Sequence[Region], mark_done: Callable[[Region], None]
) -> None:
    """Segment regions on the workers of `job.config.scheduler`; write the parts here.

    Raises
    ------
    ClusterError
        the scheduler cannot be reached any more, or a worker has other software
    SlideError, CheckpointError
        a worker cannot open the slide or the model
    """
    try:
        with Cluster(job.config) as cluster, closing(_answers(job, cluster, regions)) as answers:
            for region, answer in answers:
                _write(job, region, answer)
                mark_done(region)
        job.workers = sorted(cluster.workers)
    except ClusterError as error:
        total = len(job.plan.regions)
        kept = sum(job.folder.has(region.index) for region in job.plan.regions)
        raise ClusterError(
            f"{job.slide.path.name}: {error}; {kept} of {total} regions are kept, "
            "run the same command again to resume, also without --scheduler"
        ) from error


def _answers(
    job: Job, cluster: Cluster, regions: Sequence[Region]
) -> Generator[tuple[Region, RegionAnswer | WorkersDied], None, None]:
    """Yield regions and their answers, as they come."""
    model, plan, path = job.model, job.plan, job.slide.path.absolute()
    task = SlideTask(
        path, path.stat().st_size, _for_workers(job.config, model.precision),
        weights_of(model, job.config), plan.scale, plan.tile_px, plan.search_area,
        plan.object_filter, plan.stain_map,
    ).pack()  # fmt: skip
    sent = None if isinstance(model.network, RemoteNetwork) else cluster.send(model)
    key = uuid.uuid4().hex
    by_index = {region.index: region for region in regions}

    def request(region: Region) -> RegionRequest:
        core = region.core
        return {
            "schema_version": SCHEMA_VERSION,
            "wsiseg": cluster.version,
            "slide_key": key,
            "slide_task": task,
            "region": region.index,
            "core": [core.x0, core.y0, core.x1, core.y1],
        }

    tasks = [(region.index, (request(region), sent)) for region in regions]
    with closing(cluster.map(segment_region, tasks, stop=job.stop.is_set)) as answers:
        for index, answer in answers:
            yield by_index[index], cast("RegionAnswer | WorkersDied", answer)


def _write(job: Job, region: Region, answer: RegionAnswer | WorkersDied) -> None:
    """Write the part of a region, or the record of its failure."""
    if isinstance(answer, WorkersDied):
        job.write_failure(region, answer.cause)
        return
    if answer["part"] is not None:
        job.folder.write_part_bytes(region.index, answer["part"], answer["incomplete"])
    else:
        job.write_failure(region, str(answer["failure"]))
    job.batch = min(job.batch, answer["batch"])
    for stage, seconds in answer["seconds"].items():
        job.seconds[stage] = job.seconds.get(stage, 0.0) + seconds
