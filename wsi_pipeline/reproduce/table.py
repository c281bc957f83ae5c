"""The table of a paper: published figures beside ours, as JSON, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any
from xml.sax.saxutils import escape

from wsi_pipeline.reproduce.recipe import Recipe, Row, is_percent

__all__ = ["as_markdown", "as_svg", "has_failed", "summary", "table_rows"]

SCHEMA_VERSION = 1
BUDGETS = {
    "published": "Settings of the paper, where it states them.",
    "small": "Small networks and few steps, so that a CPU can train them: no repetition of the "
    "published trainings.",
    "fast": "**A fast check that everything runs, not a result:** a few steps on generated fields.",
}
HEADS = (
    "row", "measure", "published", "here", "data", "split", "seed", "steps", "hours", "device",
    "note",
)  # fmt: skip


def summary(recipe: Recipe, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the table as it stands in table.json; values are means over the finished folds.

    Parameters
    ----------
    results
        row → result.json of each of its splits
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "version": version("wsiseg"),
        "paper": recipe.paper,
        "title": recipe.title,
        "budget": recipe.budget,
        "rows": [_summary(row, recipe, results[row.name]) for row in recipe.rows],
    }


def _summary(row: Row, recipe: Recipe, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [r for r in results if r["status"] == "done"]
    failed = [r for r in results if r["status"] == "failed"]
    first = (failed or done or list(results))[0]
    about = done[0] if done else {}
    return {
        "name": row.name,
        "title": row.title or row.name,
        "status": first["status"],
        "reason": first.get("reason", ""),
        "measures": [
            {
                "name": name,
                "percent": is_percent(recipe.measures.get(name, "")),
                "published": published,
                "here": _mean([r["values"].get(name) for r in done]),
                "each": [r["values"].get(name) for r in done],
            }
            for name, published in row.published.items()
        ],
        "data": about.get("data", ""),
        "splits": [r["split"] for r in done],
        "of_splits": len(results),
        "seed": about.get("seed"),
        "steps": about.get("steps", []),
        "hours": round(sum(r.get("minutes", 0) for r in done) / 60, 3),
        "device": about.get("device", ""),
        "started_from": about.get("started_from", ""),
        "command": about.get("command", ""),
        "note": row.note,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return round(sum(known) / len(known), 6) if known and len(known) == len(values) else None


def has_failed(table: Mapping[str, Any]) -> bool:
    """Return whether a row of a table has failed."""
    return any(row["status"] == "failed" for row in table["rows"])


def table_rows(table: Mapping[str, Any]) -> list[list[str]]:
    """Return the table as text, the heads first; a line per row and measure.

    What holds for a whole row stands in its first line.
    """
    lines = [list(HEADS)]
    for row in table["rows"]:
        note = [row["note"], row["started_from"] and f"from {row['started_from']}"]
        if row["status"] != "done":
            note.insert(0, f"{row['status']}: {row['reason']}")
        about = [
            row["data"], _splits(row), "" if row["seed"] is None else str(row["seed"]),
            " + ".join(map(str, row["steps"])), f"{row['hours']:.2f}" if row["splits"] else "",
            row["device"], "; ".join(part for part in note if part),
        ]  # fmt: skip
        for k, measure in enumerate(row["measures"]):
            values = [_number(measure["published"]), _number(measure["here"])]
            if not row["splits"]:
                values[1] = row["status"]
            more = about if k == 0 else [""] * len(about)
            lines.append([row["title"], measure["name"], *values, *more])
    return lines


def _splits(row: Mapping[str, Any]) -> str:
    """Return the split of a row; with several folds, those that are finished."""
    splits = [s for s in row["splits"] if s]
    if row["of_splits"] == 1 or not splits:
        return "".join(splits)
    folds = ", ".join(s.partition(":")[2].partition("/")[0] for s in splits)
    return f"mean of folds {folds} of {row['of_splits']}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def as_markdown(table: Mapping[str, Any]) -> str:
    """Return the table with its head lines."""
    head, *rest = (
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in table_rows(table)
    )
    flag = "" if table["budget"] == "published" else f" --{table['budget']}"
    return "\n".join(
        [
            f"# {table['title']}",
            "",
            f"Written by `wsiseg reproduce {table['paper']}{flag}`, wsiseg {table['version']}. "
            f"{BUDGETS[table['budget']]} Shares are in percent. How the rows differ from the "
            "published ones: docs/papers.md.",
            "",
            head,
            "|" + "---|" * len(HEADS),
            *rest,
            "",
        ]
    )


def as_svg(table: Mapping[str, Any]) -> str:
    """Draw each figure in percent: a ring where the paper has it, a disc where it is here."""
    lines = [
        (f"{row['title']}: {m['name']}", m["published"], m["here"])
        for row in table["rows"]
        for m in row["measures"]
        if m["percent"] and not (m["published"] is None and m["here"] is None)
    ]
    left, step, width = 330, 16, 400
    height = 60 + step * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 40}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="18" font-size="13">{escape(table["title"])}, in percent; '
        f"ring: published, disc: here ({table['budget']})</text>",
    ]
    for share in range(0, 101, 20):
        x = left + width * share / 100
        parts.append(f'<path d="M{x} 40V{height - 10}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="36" text-anchor="middle" fill="#666">{share}</text>')
    for k, (name, published, here) in enumerate(lines):
        y = 52 + step * k
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for value, fill in ((published, "white"), (here, "#2b6ca3")):
            if value is not None:
                x = left + width * min(max(value, 0), 100) / 100
                parts.append(f'<circle cx="{x:g}" cy="{y}" r="4" fill="{fill}" stroke="#2b6ca3"/>')
    return "\n".join([*parts, "</svg>", ""])
