"""What the documentation names exists: links, files, commands, options, terms."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest
import typer
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
OTHER_PROGRAMS = {"torchrun", "pip", "python", "pytest", "make", "dask", "sbatch", "srun", "docker", "conda"}
FOREIGN_OPTIONS = {"--nthreads", "--memory-limit", "--target", "--user", "--gpus"}
"""Of other programs that pages speak of."""
MADE_BY_RUNS = {"out.qa/", "demo/"}
FILE = re.compile(r"\.(py|md|toml|npz|json|cff)$")
FOLDERS = ("hsfuse/", "docs/", "benchmarks/", "examples/", "tests/")
EXAMPLES = re.compile(r"(mylab|fused|prisma|s2|out|MODEL|RUN|networks|OUT|scene|folds|stage1)\b")


@lru_cache(maxsize=1)
def options() -> dict[str, set[str]]:
    """Command -> its options."""
    from hsfuse.cli.app import app

    group = get_command(app)
    context = typer.Context(group)
    found = {}
    for name in group.list_commands(context):
        parameters = group.get_command(context, name).params
        found[name] = {flag for p in parameters for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
    return found | {"": {flag for p in group.params for flag in p.opts}}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Names with a folder, from the root, the package or a package above; plain names of modules anywhere in it."""
    for name in re.findall(r"`([\w./-]+)`", page.read_text(encoding="utf-8")):
        if name in MADE_BY_RUNS or EXAMPLES.match(name) or name.startswith((".", "~", "/")):
            continue
        if "/" in name and (name.endswith("/") or FILE.search(name) or name.startswith(FOLDERS)):
            places = [ROOT, ROOT / "hsfuse", ROOT / "hsfuse" / "fusion"]
            assert any((place / name).exists() for place in places), name
        elif re.fullmatch(r"\w+\.py", name):
            assert any(list((ROOT / folder).rglob(name)) for folder in ("hsfuse", "benchmarks", "tests")), name


@pytest.mark.parametrize("page", [page for page in PAGES if "benchmark" not in page.name], ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = options()
    every = FOREIGN_OPTIONS.union(*known.values())
    for command in re.findall(r"`hsfuse ([a-z][a-z-]*)", text):
        assert command in known, command
    for span in re.findall(r"`([^`\n]+)`|(?:^|\n)(hsfuse [^\n]*)", text):
        span = "".join(span)
        words = span.split()
        if not words or words[0] in OTHER_PROGRAMS:
            continue
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span):
            named = re.match(r"hsfuse ([a-z][a-z-]*)", span)
            assert option in (known[named[1]] if named and named[1] in known else every), f"{option} in `{span}`"


def test_the_glossary_is_in_order() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\*\*([^*]+)\*\*", text, re.MULTILINE)
    assert len(terms) > 30
    assert terms == sorted(terms, key=str.casefold)


def test_the_citation_names_this_version() -> None:
    from hsfuse._version import __version__

    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
