"""A benchmark's result as Markdown and as a picture; every number comes from the result."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["HOW_TO_PLOT", "as_markdown", "plot"]

HOW_TO_PLOT = "pip install -e '.[benchmark]'"

_NAMES = {
    "processor": "processor", "cores": "cores", "memory_gb": "memory, GB", "gpu": "GPU",
    "gpu_memory_gb": "GPU memory, GB", "cuda": "CUDA", "system": "system", "python": "Python",
    "torch": "PyTorch", "numpy": "NumPy", "wsiseg": "wsiseg",
}  # fmt: skip
_GPU = {"gpu_busy": "GPU busy", "gpu_memory_mb": "GPU memory MB"}

Rows = list[list[str]]


def as_markdown(result: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [
        "# wsiseg benchmark",
        f"{result['date']}, {_n(result['seconds'])} s in all.",
        _table([["machine", ""], *([_NAMES[k], _n(v)] for k, v in result["machine"].items())]),
        *_slide(result),
    ]
    if "paper" in result:
        parts += _paper(result["paper"])
    if "sizes" in result:
        parts += _sizes(result["sizes"])
    return "\n\n".join(parts) + "\n"


def _slide(result: Mapping[str, Any]) -> list[str]:
    slide, model, work = result["slide"], result["model"], result["work"]
    whole, stages = result["whole"], result["stages"]
    name = f"{model['name']} in {model['precision']}"
    if model["threshold_model"]:
        name = "A threshold on each pixel in the network's place"
    about = (
        f"Generated, {slide['side_px']} x {slide['side_px']} px at {_n(slide['mpp'])} µm per pixel "
        f"(seed {slide['seed']}, {_n(slide['file_mb'])} MB, written in "
        f"{_n(slide['write_seconds'])} s); {_n(work['foreground_mpx'])} Mpx of it are foreground: "
        f"{work['regions']} regions, {work['tiles']} tiles of {model['tile_px']} px with a halo of "
        f"{model['halo_px']}. {name} on {model['device']}, batch {model['batch']}, "
        f"{model['workers']} workers; {whole['warm']['objects']} objects."
    )
    rows = {
        "read": stages["read"],
        "of that, decode": stages["decode"],
        "network": stages["network"],
        "objects": stages["objects"],
        "write": stages["write"],
        "whole, cold start": whole["cold"],
        "whole, warm": whole["warm"],
    }
    gpu = [key for key in _GPU if any(key in row for row in rows.values())]
    head = ["", "s", "tiles/s", "Mpx/s", "peak memory MB", *(_GPU[k] for k in gpu), "measured on"]
    keys = ["seconds", "tiles_per_s", "mpx_per_s", "peak_memory_mb", *gpu, "measured_on"]
    table = [head, *([name, *(_cell(row, k) for k in keys)] for name, row in rows.items())]
    return [
        "## One slide",
        about,
        _table(table),
        f"**Whole ÷ slowest stage ({result['slowest_stage']}): "
        f"{_n(result['whole_over_slowest'])}**; without start and imports "
        f"{_n(result['run_over_slowest'])}.",
        as_output_error(result),
    ]


def _cell(row: Mapping[str, Any], key: str) -> str:
    """A figure, or a dash where none was measured; a sample says that it was scaled up."""
    if key == "measured_on":
        if key not in row:
            return "a process of its own"
        return row[key] + (", scaled up" if row["scaled"] else "")
    return _n(row[key]) if key in row else "–"


def as_output_error(result: Mapping[str, Any]) -> str:
    whole, network = result["whole"], result["stages"]["network"]
    words = [
        "Stages run alone, in as many threads as a run has. Mpx are megapixels of level 0 that are "
        "foreground, tiles those of the network. “Whole” is a run from the start of its process "
        "to its end; cold: without compiled code from earlier; warm: the same again. The slide was "
        "in the system's file cache.",
        f"Without start and imports a run took {_n(whole['cold']['run_seconds'])} s cold and "
        f"{_n(whole['warm']['run_seconds'])} s warm. The network's first calls, "
        f"{_n(network['warm_up_s'])} s, are not counted in its stage.",
    ]
    own = ", ".join(f"{k} {_n(v)} s" for k, v in whole["warm"]["stage_seconds"].items())
    words.append(f"The warm run's own stopwatch, summed over threads: {own}.")
    how = {r["gpu_busy_by"] for r in (network, *whole.values()) if "gpu_busy_by" in r}
    if how:
        words.append(f"GPU busy from {' and '.join(sorted(how))}.")
    return " ".join(words)


def _paper(paper: Mapping[str, Any]) -> list[str]:
    measured, total = paper["tiles_measured"], paper["tiles"]
    label = f"extrapolated from {measured} tiles" if paper["extrapolated"] else "measured"
    networks, published = paper["networks"], paper["published"]
    gpu = [key for key in _GPU if any(key in row for row in networks.values())]
    head = [
        "", "parameters", "network, tiles/s", f"network, s for {total} ({label})",
        f"reading too, s for {total} ({label})", *(_GPU[k] for k in gpu), "computed as",
        "published, tiles/s", "published, s for a slide",
    ]  # fmt: skip
    keys = ["parameters", "tiles_per_s", "network_seconds_for_all", "seconds_for_all", *gpu, "as"]
    rows = [
        [name, *(_cell(row, k) for k in keys),
         *(_n(published[name][k]) for k in ("tiles_per_s", "seconds"))]
        for name, row in networks.items()
    ]  # fmt: skip
    return [
        "## The published comparison",
        f"Luo et al. 2022, on a GTX 1080 Ti: every window of 700 px at steps of 640, brought to "
        f"{paper['tile_px']}², none skipped, through DSSNet and through U-Net (Ronneberger et al. "
        f"2015). Here {measured} tiles each, {paper['distinct_tiles']} of them different, in "
        f"batches of {paper['batch']}, read by {paper['reading_threads']} threads while the "
        "network computes. U-Net's weights are random.",
        _table([head, *rows]),
        f"**DSSNet is {_n(paper['faster'])} times as fast as U-Net; published: "
        f"{_n(paper['faster_published'])} times.**",
    ]


def _sizes(sizes: Sequence[Mapping[str, Any]]) -> list[str]:
    head = [
        "gigapixels", "foreground Mpx", "objects", "model", "run, s", "s per foreground Mpx",
        "peak memory MB", "slide written in s",
    ]  # fmt: skip
    keys = (
        "gigapixels", "foreground_mpx", "objects", "model", "seconds", "seconds_per_mpx",
        "peak_memory_mb", "write_seconds",
    )  # fmt: skip
    note = "Each run in a process of its own, start and imports included."
    if any(row["model"] == "threshold" for row in sizes):
        note += " The model “threshold” is a threshold on each pixel in the network's place: "
        note += "these times hold all of a run but the network."
    rows = [[_n(row[key]) for key in keys] for row in sizes]
    return ["## Time and memory against size", note, _table([head, *rows])]


def _n(value: Any) -> str:
    """A number as the JSON file has it."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _table(rows: Rows) -> str:
    """Markdown; the first row is the head."""
    head, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def plot(result: Mapping[str, Any]) -> bytes | None:
    """The stages as bars and, where sizes were run, time and memory against them; PNG.

    None where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    sizes = result.get("sizes", [])
    figure = Figure(figsize=(14 if sizes else 7, 3.6), layout="constrained")
    axes = figure.subplots(1, 3 if sizes else 1, squeeze=False)[0]
    _bars(axes[0], result)
    if sizes:
        x = [row["gigapixels"] for row in sizes]
        kind = sizes[0]["model"]
        for axis, key, label in (
            (axes[1], "seconds", f"s per run ({kind})"),
            (axes[2], "peak_memory_mb", "peak memory, MB"),
        ):
            axis.plot(x, [row[key] for row in sizes], "o-", color="#2b6ca3")
            axis.set(xscale="log", xlabel="gigapixels", ylabel=label)
            axis.set_xticks(x, [f"{g:.2g}" for g in x])
            axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
            axis.grid(alpha=0.3)
        axes[1].set_yscale("log")
        axes[2].set_ylim(0, 1.1 * max(row["peak_memory_mb"] for row in sizes))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _bars(axis: Any, result: Mapping[str, Any]) -> None:
    stages, whole = result["stages"], result["whole"]
    rows = {k: stages[k] for k in ("read", "network", "objects", "write")}
    rows |= {"whole, warm": whole["warm"], "whole, cold start": whole["cold"]}
    seconds = [row["seconds"] for row in rows.values()]
    colours = ["#2b6ca3"] * 4 + ["#888888"] * 2
    names = [k + (" (scaled up)" if v.get("scaled") else "") for k, v in rows.items()]
    bars = axis.barh(names, seconds, color=colours)
    axis.bar_label(bars, [_n(s) for s in seconds], padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    side, name = result["slide"]["side_px"], result["model"]["name"]
    axis.set(xlabel="seconds", title=f"{name}, {side} x {side} px, each stage alone")
