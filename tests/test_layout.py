"""Limits of the layout: few entries, short files, short functions, tests beside their package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "wsi_pipeline"
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
SOURCES = [
    path
    for folder in ("wsi_pipeline", "models", "workflows", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
MOST_ENTRIES, MOST_LINES, MOST_BODY_LINES = 18, 400, 40

# (file, function) with a longer body: the reason.
LONG_FUNCTIONS: dict[tuple[str, str], str] = {}


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Name and number of body lines, without the docstring, of each function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            body = node.body[1:] if documented else node.body
            if body:
                yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_the_package_has_few_entries():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, entries


def test_files_are_short():
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in SOURCES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def test_functions_are_short():
    long = {
        (path.relative_to(ROOT).as_posix(), name): lines
        for path in SOURCES
        for name, lines in functions(ast.parse(path.read_text(encoding="utf-8")))
        if lines > MOST_BODY_LINES
    }
    assert {k: v for k, v in long.items() if k not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(long), "remove exceptions that are not needed"


def test_tests_mirror_the_packages():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == {*PACKAGES, "models"}


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_stand_beside_what_they_test(package):
    strays = [
        path.name
        for path in (ROOT / "tests" / package).glob("test_*.py")
        if f"wsi_pipeline.{package}" not in path.read_text(encoding="utf-8")
    ]
    # A command is tested as a user types it, without an import.
    assert package == "cli" or strays == []


def untyped_text(call: ast.Call) -> bool:
    """Return whether a call opens a text file, or pipes, without an encoding."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return len(call.args) == 1 and isinstance(function, ast.Attribute)
    if name == "open":
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        return any(isinstance(m, str) and set(m) <= set("rwax+t") for m in modes)
    return "text" in keywords or "universal_newlines" in keywords


def test_text_has_an_encoding():
    """Windows would take the encoding of the user's country otherwise."""
    found = [
        (path.relative_to(ROOT).as_posix(), node.lineno)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and untyped_text(node)
    ]
    assert found == []
