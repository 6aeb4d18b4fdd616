"""``hsfuse info``: what a product is, and which of several go together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rasterio.crs import CRS

from hsfuse.errors import HsfuseError, InputError
from hsfuse.grid import Bounds, Grid
from hsfuse.readers import open_product
from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.declarations import NOTHING, Declarations
from hsfuse.readers.find import find_products
from hsfuse.readers.footprint import touches
from hsfuse.readers.given_path import given_path
from hsfuse.workflows.steps.contributions import contributions

_LEAST_RATIO = 1.5
"""Images of nearly equal pixels are no pair to fuse."""


def describe_product(path: Path, declared: Declarations = NOTHING) -> dict[str, Any]:
    """Return the facts about a product as plain values; what is ``declared`` is about a hyperspectral raster.

    Raises
    ------
    InputError
        hsfuse cannot read it.
    """
    product = open_product(path, declared=declared)
    try:
        info, grid = product.info, product.grid
        facts: dict[str, Any] = {
            "name": info.name,
            "sensor": info.sensor,
            "level": info.level,
            "path": str(path),
            "start": info.start.isoformat() if info.start else None,
            "sun_zenith_deg": info.sun_zenith_deg,
            "sun_azimuth_deg": info.sun_azimuth_deg,
            "view_zenith_deg": info.view_zenith_deg,
            "crs": grid.crs.to_string(),
            "bounds": [round(v, 3) for v in grid.bounds],
            "pixel_m": grid.pixel_m,
            "height": grid.height,
            "width": grid.width,
            "attributes": dict(info.attributes),
            "warnings": list(info.warnings),
        }
        if isinstance(product, HyperspectralProduct):
            facts |= {
                "kind": "hyperspectral",
                "bands": len(product.bands),
                "centre_nm": [round(float(v), 2) for v in product.bands.centre_nm],
                "fwhm_nm": [round(float(v), 2) for v in product.bands.fwhm_nm],
                "detector": list(product.bands.detector),
            }
        else:
            facts |= {
                "kind": "multispectral",
                "bands": len(product.band_names),
                "band_names": list(product.band_names),
                "centre_nm": [round(r.centre_nm, 1) for r in product.responses] if product.responses else None,
            }
        return facts
    finally:
        product.close()


def describe_products(paths: Sequence[Path]) -> dict[str, Any]:
    """Describe several products, or all in some folders, and say which hyperspectral ones lie on which others.

    Returns
    -------
    dict
        ``products``: as :func:`describe_product`, or ``path`` and ``error`` of what cannot be read. ``pairs``: names,
        shared area in km², days between the acquisitions, cloud cover of the multispectral product and over the
        hyperspectral image, and what a run with all of them would take from each, the nearest in time first.

    Raises
    ------
    InputError
        There is no product at all.
    """
    found = [product for path in paths for product in expanded(path)]
    products = []
    for path in dict.fromkeys(found):
        try:
            products.append(describe_product(path))
        except HsfuseError as error:
            products.append({"path": str(path), "error": error.message})
    if all("error" in facts for facts in products):
        first = products[0]["error"] if products else f"{paths[0]} holds no product."
        raise InputError(str(first), hint="`hsfuse info FILE` says more about a single file.")
    known = [facts for facts in products if "error" not in facts]
    pairs = [
        pair
        for hsi in known
        if hsi["kind"] == "hyperspectral"
        for msi in known
        if msi["kind"] == "multispectral" and (pair := _pair(hsi, msi)) is not None
    ]
    for hsi in (facts for facts in known if facts["kind"] == "hyperspectral"):
        mine = {pair["msi"] for pair in pairs if pair["hsi"] == hsi["name"]}
        partners = [(Path(msi["path"]), msi["level"]) for msi in known if msi["name"] in mine]
        bring = contributions(Path(hsi["path"]), partners) if partners else {}
        for pair in pairs:
            if pair["hsi"] == hsi["name"]:
                pair |= bring.get(pair["msi"], {})
    pairs.sort(key=lambda pair: (pair["hsi"], pair["days_apart"] is None, pair["days_apart"], -pair["overlap_km2"]))
    return {"products": products, "pairs": pairs}


def expanded(path: Path) -> list[Path]:
    """Products that a path stands for: those in a folder that is none itself."""
    path = given_path(path)
    if not path.is_dir():
        return [path]
    inside = dict.fromkeys([*find_products(path, "hsi"), *find_products(path, "msi")])
    return list(inside) or [path]


def _pair(hsi: dict[str, Any], msi: dict[str, Any]) -> dict[str, Any] | None:
    grids = [
        Grid.from_origin(CRS.from_string(facts["crs"]), facts["bounds"][0], facts["bounds"][3], facts["pixel_m"],
                         facts["height"], facts["width"])
        for facts in (hsi, msi)
    ]  # fmt: skip
    if grids[0].pixel_m < _LEAST_RATIO * grids[1].pixel_m or not touches(grids[1], grids[0]):
        return None
    shared: Bounds | None = grids[0].bounds_in(grids[1].crs).intersect(grids[1].bounds)
    if shared is None:
        return None
    area = (shared.right - shared.left) * (shared.top - shared.bottom) / 1e6
    times = [datetime.fromisoformat(facts["start"]) if facts["start"] else None for facts in (hsi, msi)]
    apart = None if None in times else abs((times[0] - times[1]).total_seconds()) / 86400  # type: ignore[operator]
    return {
        "hsi": hsi["name"],
        "msi": msi["name"],
        "overlap_km2": round(area, 2),
        "days_apart": None if apart is None else round(apart, 2),
        "cloud_percent": msi["attributes"].get("cloud_percent"),
        "ratio": round(hsi["pixel_m"] / msi["pixel_m"], 3),
    }


def products_text(facts: dict[str, Any]) -> str:
    """Lay out several products and their pairs for reading."""
    parts = [
        f"{entry['path']}\n  error     {entry['error']}" if "error" in entry else description_text(entry)
        for entry in facts["products"]
    ]
    for pair in facts["pairs"]:
        days = "days apart unknown" if pair["days_apart"] is None else f"{pair['days_apart']:.1f} days apart"
        parts.append(
            f"{pair['hsi']} + {pair['msi']}\n  pair      {pair['overlap_km2']:.1f} km², {days}{_cloud_text(pair)}, "
            f"ratio {pair['ratio']:g}"
        )
        if "clear_percent" in pair:
            share = pair["contributes_percent"]
            gives = f"would give {share:.1f} %" if share else "would not be needed"
            alone = sum(other["hsi"] == pair["hsi"] for other in facts["pairs"]) == 1
            with_all = "" if alone else f"; in a run with all of these dates it {gives}"
            parts.append(f"  shows     {pair['clear_percent']:.1f} % of the image clear{with_all}")
    if not facts["pairs"]:
        parts.append("No hyperspectral product lies on a multispectral one.")
    return "\n".join(parts)


def _cloud_text(pair: dict[str, Any]) -> str:
    over = pair.get("footprint_cloud_percent")
    if over is not None:
        return f", {over:.0f} % of the image under cloud"
    return "" if pair["cloud_percent"] is None else f", {pair['cloud_percent']:.0f} % cloud"


def description_text(facts: dict[str, Any]) -> str:
    """Lay out the facts for reading."""
    left, bottom, right, top = facts["bounds"]
    lines = [
        f"{facts['name']}",
        f"  sensor    {facts['sensor']}, level {facts['level'] or 'unknown'}",
        f"  acquired  {facts['start'] or 'unknown'}",
        f"  grid      {facts['height']} x {facts['width']} pixels of {facts['pixel_m']:g} m, {facts['crs']}",
        f"  extent    {left:.1f} {bottom:.1f} {right:.1f} {top:.1f} (left bottom right top)",
    ]
    centre = facts["centre_nm"]
    span = f", {min(centre):.1f} to {max(centre):.1f} nm" if centre else ""
    names = f" ({' '.join(facts['band_names'])})" if "band_names" in facts else ""
    lines.append(f"  bands     {facts['bands']}{names}{span}")
    if facts["sun_zenith_deg"] is not None:
        lines.append(f"  sun       zenith {facts['sun_zenith_deg']:.1f} degrees")
    made_by = facts["attributes"].get("hsfuse_version")
    if made_by:
        lines.append(f"  made by   hsfuse {made_by}, {facts['attributes'].get('hsfuse_method', 'unknown method')}")
    lines += [f"  warning   {text}" for text in facts["warnings"]]
    return "\n".join(lines)
