"""The shape of the source: no circles of imports, no module too long, the same examples in continuous integration."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from grimp import ImportGraph, build_graph
from hypothesis import settings

PACKAGE = Path(__file__).resolve().parents[1] / "hsfuse"
MOST_LINES = 400
REASON = "Longer than 400 lines because"
"""How the docstring of a module says why it is longer."""


def circles(graph: ImportGraph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (strongly connected components)."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if imported not in number:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in path:
                lowest[module] = min(lowest[module], number[imported])
        if lowest[module] == number[module]:
            group = path[path.index(module) :]
            del path[path.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph.modules):
        if module not in number:
            visit(module)
    return found


def test_no_modules_import_each_other():
    """Imports inside functions and for type checkers count too: they hide a circle, they do not open it."""
    assert circles(build_graph("hsfuse", cache_dir=None)) == []


def test_a_circle_is_found():
    graph = ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")):
        graph.add_import(importer=importer, imported=imported)
    assert circles(graph) == [["a", "b", "c"]]


def long_modules(folder: Path) -> list[str]:
    """Modules above the limit whose docstring gives no reason."""
    return [
        f"{path.relative_to(folder)}: {len(text.splitlines())} lines"
        for path in sorted(folder.rglob("*.py"))
        if len((text := path.read_text(encoding="utf-8")).splitlines()) > MOST_LINES
        and REASON not in " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    ]


def test_long_modules_say_why():
    assert long_modules(PACKAGE) == []


def test_a_long_module_is_found(tmp_path):
    (tmp_path / "short.py").write_text("x = 1\n" * MOST_LINES)
    (tmp_path / "long.py").write_text("x = 1\n" * (MOST_LINES + 1))
    (tmp_path / "reasoned.py").write_text(f'"""A table.\n\n{REASON} it is one.\n"""\n' + "x = 1\n" * MOST_LINES)
    assert long_modules(tmp_path) == ["long.py: 401 lines"]


@pytest.mark.parametrize(("profile", "same"), [("hsfuse-ci", True), ("hsfuse", False)])
def test_continuous_integration_tries_the_same_examples(profile, same):
    assert settings.get_profile(profile).derandomize is same
