"""A synthetic slide with files of its true objects (`wsiseg synth`)."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.progress import progress
from wsi_pipeline.formats.convert import SlideInfo, export
from wsi_pipeline.synthetic.looks import LookName, dysplastic_mix, find_look
from wsi_pipeline.synthetic.placement import plan_slide
from wsi_pipeline.synthetic.render import truth_cells, truth_kinds, truth_objects
from wsi_pipeline.synthetic.svs_writer import write_slide

__all__ = ["make_slide"]


def make_slide(
    path: Path,
    *,
    width: int,
    height: int,
    mpp: float,
    seed: int,
    tissue: float,
    max_overlap: float | None,
    look: LookName = "plain",
    dysplastic: float | None = None,
    quiet: bool,
) -> list[Path]:
    """Write a synthetic slide, its true nuclei, and its true cells with their nuclei.

    The member ``wsiseg`` of the cells' file has the kind of each cell, in order, as ``kinds``.

    Parameters
    ----------
    path
        the slide NAME.svs; the truth becomes NAME.truth.geojson.gz and NAME.truth-cells.geojson.gz
        beside it
    width, height, mpp, seed, tissue, max_overlap, look
        see `plan_slide`
    dysplastic
        share of dysplastic cells among those outside of dense groups, 0 to 1; that of the look if
        not given
    quiet
        show no progress

    Returns
    -------
    list of Path
        the three files

    Raises
    ------
    UsageError, ConfigError, OutputError
        see `plan_slide` and `write_slide`
    """
    if path.suffix.lower() != ".svs":
        raise UsageError(f"the slide's name must end in .svs, got {path}; or give --fields")
    mix = None if dysplastic is None else dysplastic_mix(find_look(look), dysplastic)
    plan = plan_slide(
        width,
        height,
        mpp=mpp,
        seed=seed,
        tissue=tissue,
        max_overlap=max_overlap,
        look=look,
        mix=mix,
    )  # fmt: skip
    bar = progress(
        -(-width // 1024) * -(-height // 1024), desc=path.name, unit="block", quiet=quiet
    )
    before = 0

    def advance(done: int, total: int) -> None:
        nonlocal before
        bar.update(done - before)
        before = done

    write_slide(path, plan, progress=advance)
    bar.close()
    files = [path]
    size = {"x": mpp, "y": mpp, "source": "synthetic"}
    slide = {"id": path.stem, "file": path.name, "width": width, "height": height, "mpp": size}
    kinds = truth_kinds(plan)[0]
    for name, objects in (("truth", truth_objects(plan)[0]), ("truth-cells", truth_cells(plan))):
        file = path.with_name(f"{path.stem}.{name}.geojson.gz")
        own = {"kinds": kinds} if objects.parent is not None else {}
        about = SlideInfo(provenance={"slide": slide, "seed": seed, **own})
        export(objects, file, format="geojson.gz", slide=about)
        files.append(file)
    return files
