"""What each product of an archive would bring to a run with a hyperspectral image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hsfuse.config import CoregisterConfig
from hsfuse.errors import InputError, OverlapError
from hsfuse.log import get_logger
from hsfuse.readers import open_hsi, open_msi
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.source_dates import SourceDate
from hsfuse.workflows.steps.inputs import date_wish

_log = get_logger(__name__)


def contributions(hsi: Path, msi: Iterable[tuple[Path, str]]) -> dict[str, dict[str, Any]]:
    """Look at multispectral products over the footprint of a hyperspectral one.

    Parameters
    ----------
    hsi
        The hyperspectral product.
    msi
        Multispectral products with their levels; those of one level and one reader that can join several are taken
        together, as a run takes them.

    Returns
    -------
    dict
        By the product's name, in percent of the footprint and of all tiles of its date: ``covered_percent``,
        ``footprint_cloud_percent``, ``clear_percent``, and ``contributes_percent``, what a run would take from it.
        Products that cannot be joined are not in it.
    """
    groups: dict[tuple[str, str], list[Path]] = {}
    for path, level in msi:
        reader = choose_reader(path, "msi")
        if reader.open_several is not None:
            groups.setdefault((reader.name, level), []).append(path)
    found: dict[str, dict[str, Any]] = {}
    with open_hsi(hsi) as image:
        wish = replace(date_wish(image, CoregisterConfig()), thorough=True)
        for paths in groups.values():
            try:
                with open_msi(paths, target=image.grid, verify=False, dates=wish) as opened:
                    for source in opened.dates:
                        found |= dict.fromkeys(source.products, _facts(source))
            except OverlapError as error:
                _log.debug("no contributions of %s: %s", ", ".join(path.name for path in paths), error.message)
            except InputError as error:
                _log.warning("What the products of %s bring cannot be told: %s", paths[0].parent, error.message)
    return found


def _facts(source: SourceDate) -> dict[str, Any]:
    shares = {
        "covered_percent": source.covered, "footprint_cloud_percent": source.cloudy, "clear_percent": source.clear,
        "contributes_percent": source.used,
    }  # fmt: skip
    return {name: round(100.0 * share, 2) for name, share in shares.items()}
