"""docs/architecture.md names files and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^\| ([^|]+\?) \| `([^`]+)` \| `([^`]+)` \|$", ARCHITECTURE, re.MULTILINE)


def names_in(path: Path) -> set[str]:
    """Functions, classes, methods (`Class.method`) and constants that a file defines."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            found |= {f"{node.name}.{n.name}" for n in inner}
        if isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def test_the_questions_are_answered():
    assert len(QUESTIONS) >= 15


@pytest.mark.parametrize(("question", "file", "function"), QUESTIONS, ids=lambda text: text)
def test_the_file_decides_it(question, file, function):
    assert function in names_in(ROOT / file)


def test_files_that_the_text_names_exist():
    folders = [ROOT, ROOT / "wsi_pipeline"]
    named = re.findall(r"`([\w./]+(?:\.py|/))`", ARCHITECTURE)
    assert len(named) > 50
    assert [n for n in named if not any((folder / n).exists() for folder in folders)] == []


def test_every_package_is_described():
    packages = {p.parent.name for p in (ROOT / "wsi_pipeline").glob("*/__init__.py")}
    described = set(re.findall(r"^\| `(\w+)/` \|", ARCHITECTURE, re.MULTILINE))
    assert described == packages | {"models"}


def test_names_that_the_text_puts_into_a_file_are_there():
    texts = [ARCHITECTURE, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")]
    pairs = re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", "\n".join(texts))
    assert len(pairs) >= 5
    assert [(n, f) for n, f in pairs if n not in names_in(ROOT / f)] == []
