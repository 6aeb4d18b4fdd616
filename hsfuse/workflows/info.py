"""``hsfuse info``: what a product is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsfuse.readers import open_product
from hsfuse.readers.base import HyperspectralProduct


def describe_product(path: Path) -> dict[str, Any]:
    """Return the facts about a product as plain values.

    Raises
    ------
    InputError
        hsfuse cannot read it.
    """
    product = open_product(path)
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
    lines += [f"  warning   {text}" for text in facts["warnings"]]
    return "\n".join(lines)
