"""Packages with entry points, laid out as an installation leaves them; for tests of what hsfuse finds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hsfuse.fusion.registry import METHODS
from hsfuse.metrics import METRICS
from hsfuse.readers.entry import READERS
from hsfuse.writers import FORMATS


def install(site: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]) -> Path:
    """Lay out an installed distribution in a folder for ``PYTHONPATH``.

    Parameters
    ----------
    site
        The folder.
    name
        Name of the distribution.
    modules
        Path of a module below the folder, such as ``mine/metric.py`` -> its source.
    entry_points
        Group, such as ``hsfuse.metrics`` -> name -> ``module:object``.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    for path, source in modules.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return site


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Let this process find the distributions of a folder, for the time of the block."""
    before = set(sys.modules)
    sys.path.insert(0, str(site))
    try:
        _look_again()
        yield
    finally:
        sys.path.remove(str(site))
        _look_again()
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and site in Path(origin).parents:
                del sys.modules[name]


def _look_again() -> None:
    for registry in (METHODS, READERS, FORMATS, METRICS):
        registry.look_again()
