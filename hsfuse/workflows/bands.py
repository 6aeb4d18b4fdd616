"""``hsfuse bands``: which bands of a product would be kept, and why."""

from __future__ import annotations

from pathlib import Path

from hsfuse.band_selection import BandSelection
from hsfuse.config import RunConfig
from hsfuse.progress import Progress
from hsfuse.readers import open_hsi
from hsfuse.readers.declarations import NOTHING, Declarations
from hsfuse.workflows.steps.prepare import band_request, select_scene_bands

DEFAULT_BANDS: str = RunConfig.model_fields["bands"].default


def inspect_bands(
    path: Path, bands: str | None, *, cut_nm: float, progress: Progress, declared: Declarations = NOTHING
) -> BandSelection:
    """Select bands as a run would, without fusing; None: as many as a run would without being told."""
    product = open_hsi(path, cut_nm=cut_nm, declared=declared)
    try:
        wanted = band_request(product, bands or DEFAULT_BANDS, asked=bands is not None)
        return select_scene_bands(product, wanted, progress)
    finally:
        product.close()


def band_table_text(selection: BandSelection) -> str:
    """Lay out the band table for reading."""
    lines = ["  nr  detector   centre nm   FWHM nm      SNR  kept  reason"]
    for number, row in enumerate(selection.table, start=1):
        snr = f"{row.snr:8.1f}" if row.snr == row.snr else "       -"
        lines.append(
            f"{number:4d}  {row.detector or '-':8s} {row.centre_nm:11.1f} {row.fwhm_nm:9.1f} {snr}"
            f"  {'yes ' if row.kept else 'no  '}  {row.reason}"
        )
    lines.append(f"{len(selection.indices)} of {len(selection.table)} bands kept")
    return "\n".join([*lines, *selection.notes])
