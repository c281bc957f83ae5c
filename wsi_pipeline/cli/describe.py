"""Describe a slide, the work of a run and the models, as data and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.core.errors import UnknownModelError
from wsi_pipeline.core.progress import announce

if TYPE_CHECKING:
    from wsi_pipeline.runs.work_plan import Overview
    from wsi_pipeline.slides.slide import Slide

__all__ = [
    "card_rows",
    "describe_model",
    "describe_slide",
    "model_rows",
    "slide_rows",
]


def describe_slide(
    path: Path,
    *,
    mpp: float | None,
    crop: bool,
    model: str | None,
    series: int | None = None,
    plane: int | None = None,
    time: int | None = None,
) -> dict[str, Any]:
    """Describe a slide and, if its pixel size is known, the work of a run.

    Parameters
    ----------
    mpp
        µm per level-0 pixel, instead of the slide's
    crop
        use only the scanned area that the file declares
    series, plane, time
        number of the image, of the focal plane and of the time point in a file with several
    model
        model of the run; None: no work is planned, and no network is opened

    Raises
    ------
    SlideError, UnknownModelError, CheckpointError
        the slide or the model cannot be used
    """
    from wsi_pipeline.runs.work_plan import read_overview
    from wsi_pipeline.slides.focus import measure_focus
    from wsi_pipeline.slides.slide import open_slide

    with open_slide(path, mpp=mpp, crop=crop, series=series, plane=plane, time=time) as slide:
        overview = read_overview(slide)
        kept = overview.foreground
        about: dict[str, Any] = {
            "slide": slide.slide_id,
            "file": str(slide.path),
            "reader": slide.reader,
            "decoder": slide.decoder,
            "vendor": slide.vendor,
            "width": slide.width,
            "height": slide.height,
            "mpp": asdict(slide.mpp) if slide.mpp else None,
            "bounds": list(asdict(slide.bounds).values()),
            "levels": [asdict(level) for level in slide.levels],
            "notes": [*slide.notes, *overview.warnings()],
            "foreground": {"share": round(kept.share, 4), "rule": kept.rule},
            "focus": asdict(measure_focus(slide, kept)),
        }
        if slide.mpp is not None and model is not None:
            about["model"] = _work(slide, overview, model)
        return about


def _work(slide: Slide, overview: Overview, name: str) -> dict[str, Any]:
    """Return how a run of the named model would divide the slide."""
    from wsi_pipeline.core.config import RunConfig
    from wsi_pipeline.runs.work_plan import plan_work

    with announce(f"loading the network {name} (PyTorch)"):
        from wsi_pipeline.segmentation.load_model import open_model

        model = open_model(name, device="cpu")
    has_range = bool(model.card.get("stain"))
    config = RunConfig(model=name, adapt=has_range, quiet=True)
    plan = plan_work(slide, model, config, overview=overview)
    return {
        "name": model.name,
        "mpp": model.mpp,
        "scale": round(plan.scale, 4),
        "tile_px": plan.tile_px,
        "network_halo_px": model.halo_px,
        "network_halo_um": round(model.halo_px * model.mpp, 1),
        "object_halo_px": model.reach_px,
        "object_halo_um": round(model.reach_px * model.mpp, 1),
        "regions": len(plan.regions),
        "tiles": sum(1 for region in plan.regions for _ in plan.tiles(region)),
        "adaptation": plan.adaptation.record() if plan.adaptation else None,
    }


def model_rows() -> list[dict[str, Any]]:
    """Return name, summary, weights and card of every model; None where no weights are included."""
    from wsi_pipeline.segmentation.load_model import list_models

    return [
        {
            "name": row["name"],
            "summary": row["summary"],
            "weights": str(row["path"]) if row["card"] else None,
            "card": asdict(row["card"]) if row["card"] else None,
        }
        for row in list_models()
    ]


def describe_model(name: str) -> dict[str, Any]:
    """Return the row of one model, or raise `UnknownModelError`."""
    rows = {row["name"]: row for row in model_rows()}
    if name not in rows:
        raise UnknownModelError(f"unknown model {name!r}; known: {', '.join(sorted(rows))}")
    return rows[name]


def slide_rows(about: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of a table for what `describe_slide` returned."""
    mpp, plan, share = about["mpp"], about.get("model"), about["foreground"]["share"]
    x0, y0, x1, y1 = about["bounds"]
    sizes = (f"{v['width']} x {v['height']} (1/{v['downsample']:g})" for v in about["levels"])
    pixel = f"{mpp['x']:g} x {mpp['y']:g} µm ({mpp['source']})" if mpp else "unknown; give --mpp"
    direct = ", tiles decoded directly" if about["decoder"] == "direct" else ""
    rows = [
        ["slide", about["slide"]],
        ["reader", f"{about['reader']}, {about['vendor']}{direct}"],
        ["size", f"{about['width']} x {about['height']} px"],
        ["pixel", pixel],
        ["bounds", f"x {x0}–{x1}, y {y0}–{y1} of the file's level 0"],
        *(["level", size] for size in sizes),
        ["foreground", f"{share:.1%}, {about['foreground']['rule']}"],
        ["focus", _focus(about["focus"])],
        *(["note", note] for note in about["notes"]),
    ]
    if plan:
        halo = f"{plan['network_halo_px']} px = {plan['network_halo_um']:g} µm"
        around = f"{plan['object_halo_px']} px = {plan['object_halo_um']:g} µm"
        rows += [
            ["model", f"{plan['name']} at {plan['mpp']:g} µm, scale {plan['scale']:g}"],
            ["tile", f"{plan['tile_px']} px, halo {halo} (network), {around} (objects)"],
            ["work", f"{_count(plan['regions'], 'region')}, {_count(plan['tiles'], 'tile')}"],
        ]
        if plan["adaptation"]:
            rows.append(["--adapt", plan["adaptation"]["note"]])
    return rows


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _focus(focus: Mapping[str, Any]) -> str:
    if focus["score"] is None:
        return f"not measured: {focus['note']}"
    blurred = f"{focus['blurred_share']:.0%} of {focus['fields']} fields blurred"
    return f"{focus['score']:.2f} (1 = sharp, 0.25 = none), {blurred}"


def card_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return rows of a table for `model_rows`; of the training data only the names."""
    lines = [["name", "task", "classes", "µm/px", "parameters", "data", "licence", "weights"]]
    for row in rows:
        card = row["card"]
        if card is None:
            lines.append([row["name"], row["summary"], "", "", "", "", "", "none; train it"])
            continue
        data = ", ".join(d.split(" (")[0] for d in card["data"])
        lines.append(
            [
                row["name"], row["summary"], ", ".join(card["classes"]), f"{card['mpp']:g}",
                f"{card['parameters']:,}", data or "–", card["licence"] or "–", row["weights"],
            ]
        )  # fmt: skip
    return lines
