"""Choice of bands: fixed windows, the scene's own evidence, then thinning; every dropped band has a reason."""

from hsfuse.band_selection.criteria import Limits
from hsfuse.band_selection.evidence import BandStatistics, measure_bands
from hsfuse.band_selection.request import BandRequest, match_bands, parse_bands, read_wavelengths
from hsfuse.band_selection.selection import BandEvidence, BandSelection, check_request, select_bands
from hsfuse.band_selection.table import evidence_table
from hsfuse.band_selection.windows import WINDOWS, SpectralWindow, window_of

__all__ = [
    "WINDOWS",
    "BandEvidence",
    "BandRequest",
    "BandSelection",
    "BandStatistics",
    "Limits",
    "SpectralWindow",
    "check_request",
    "evidence_table",
    "match_bands",
    "measure_bands",
    "parse_bands",
    "read_wavelengths",
    "select_bands",
    "window_of",
]
