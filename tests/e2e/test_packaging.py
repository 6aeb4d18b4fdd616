"""What ships beside the package says the same as the package: recipe, image, QGIS script, versions."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from hsfuse._version import __version__

ROOT = Path(__file__).resolve().parents[2]


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def test_the_conda_recipe_has_the_package_s_dependencies() -> None:
    recipe = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in recipe
    renamed = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    listed = set(re.findall(r"^    - ([a-z0-9-]+) ([<>=0-9.,]+)$", recipe, re.MULTILINE))
    for text in project()["dependencies"]:
        name, limits = re.match(r"([A-Za-z0-9-]+)(.*)", text).groups()
        assert (renamed.get(name, name), limits) in listed, text


def test_the_image_has_both_stages_and_no_root() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    stages = {line.split(" AS ")[1]: i for i, line in enumerate(lines) if " AS " in line and line.startswith("FROM")}
    assert {"cpu", "cuda"} <= set(stages)
    for name in ("cpu", "cuda"):
        own = lines[stages[name] : min([i for i in stages.values() if i > stages[name]], default=len(lines))]
        assert "USER hsfuse" in own
        assert 'ENTRYPOINT ["hsfuse"]' in own
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert copied <= kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The QGIS script, without QGIS."""
    core = types.ModuleType("qgis.core")
    path = ROOT / "examples" / "qgis" / "hsfuse_fuse.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [a.name for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "qgis.core"
             for a in node.names]  # fmt: skip
    for name in names:
        setattr(core, name, type(name, (Exception,), {}))
    monkeypatch.setitem(sys.modules, "qgis", types.ModuleType("qgis"))
    monkeypatch.setitem(sys.modules, "qgis.core", core)
    module = types.ModuleType("hsfuse_fuse")
    exec(compile(tree, str(path), "exec"), vars(module))
    return module


def test_the_qgis_script_calls_the_command_that_there_is(script: types.ModuleType) -> None:
    import typer
    from typer.main import get_command

    from hsfuse.cli.app import app
    from hsfuse.fusion.registry import METHODS

    values = {"hsi": "a.he5", "msi": "b.SAFE", "output": "c.tif", "method": "glp", "quality": "fast", "bands": "",
              "aoi": "1,2,3,4", "aoi_crs": "EPSG:32632", "more": "--seed 3"}  # fmt: skip
    line = script.command_line("hsfuse", values)
    assert line[:3] == ["hsfuse", "run", "a.he5"]
    assert line[-2:] == ["--seed", "3"]
    group = get_command(app)
    known = {flag for p in group.get_command(typer.Context(group), "run").params for flag in p.opts}
    assert {word for word in line if word.startswith("-")} <= known
    assert set(script.METHODS) - {"auto"} <= set(METHODS.names())
    assert script.percent_of("45 % of the run (4/9 fuse), about 20 s left") == 45
    assert script.percent_of("4/9 fuse: done in 3 s") is None
