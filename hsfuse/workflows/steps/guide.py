"""Open the guide that ``--guide`` names: Sentinel-2, the product's own panchromatic image, or both."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import CoregisterConfig
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.degrade import Psf
from hsfuse.degrade.response_estimation import ResponseEstimate, estimate_response
from hsfuse.errors import CoregistrationError
from hsfuse.inference.joined_guide import CoarsePixels, JoinedGuide
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.known_responses import KnownResponses

_log = get_logger(__name__)

_MATCHING_PX = 3
"""Panchromatic pixels that make one for matching with a multispectral image: 15 m."""
_MATCHING_PSF = Psf(1.0)
_RESPONSE_PIXELS = 40_000


@dataclass(frozen=True)
class GuideResponse:
    """Which spectral response a guide band was taken to have.

    Attributes
    ----------
    band
        Its name.
    estimate
        What was found.
    """

    band: str
    estimate: ResponseEstimate

    @property
    def text(self) -> str:
        """One sentence for the report."""
        found = self.estimate
        low, high = found.response.range_nm
        share = f"explains {100 * found.explained:.1f} % of its variance"
        if not found.measured:
            return f"{found.response.source}, assumed; {share}, and regression on the scene no more"
        known = found.explained_nominal
        more = "" if known is None else f", the nominal one {100 * known:.1f} %"
        where = f"above half its maximum from {low:.0f} to {high:.0f} nm"
        return f"measured by regression on the scene, {where}; {share}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        found = self.estimate
        low, high = found.response.range_nm
        return {
            "band": self.band, "measured": found.measured, "source": found.response.source, "range_nm": [low, high],
            "centre_nm": round(found.response.centre_nm, 1), "explained": round(found.explained, 5),
            "explained_nominal": None if found.explained_nominal is None else round(found.explained_nominal, 5),
        }  # fmt: skip


def matching_reference(msi: MultispectralProduct) -> MultispectralProduct:
    """What an HSI is matched with: of two guides, the multispectral one."""
    return msi.coarse if isinstance(msi, JoinedGuide) else msi


def align_guides(
    msi: MultispectralProduct, config: CoregisterConfig, progress: Progress
) -> tuple[MultispectralProduct, CoregistrationResult | None]:
    """Bring the panchromatic image of two guides onto the multispectral one; other guides are returned as they are.

    Raises
    ------
    CoregistrationError
        No trustworthy alignment was found.
    """
    if not isinstance(msi, JoinedGuide) or config.coregister == "off":
        return msi, None
    from hsfuse.coregister.products import coregister_products

    result = coregister_products(
        CoarsePixels(msi.fine, _MATCHING_PX), msi.coarse, config, psf=_MATCHING_PSF, progress=progress
    )
    if not result.trusted:
        raise CoregistrationError(
            f"The panchromatic image could not be aligned with Sentinel-2: {result.reason}",
            hint="Use one of them: --guide pan or --guide s2.",
        )
    _log.info("Panchromatic image on Sentinel-2 %s: %s", result.verdict, result.reason)
    return msi.aligned(result.field), result


def with_measured_response(scene: FusionScene) -> tuple[FusionScene, GuideResponse | None]:
    """Find out the response of a guide band that is only assumed, or of a single band that is unknown."""
    responses, names = scene.msi.responses, scene.msi.band_names
    if responses is None:
        band = 0 if len(names) == 1 else None
    else:
        band = next((i for i, response in enumerate(responses) if response.assumed), None)
    if band is None:
        return scene, None
    samples: list[NDArray[np.float32]] = []
    guides: list[NDArray[np.float32]] = []
    for strip in scene.low_resolution_strips():
        samples.append(strip.hsi[:, strip.valid])
        guides.append(strip.msi[band][strip.valid])
    seen, guide = np.concatenate(samples, axis=1), np.concatenate(guides)
    step = max(1, guide.size // _RESPONSE_PIXELS)
    nominal = None if responses is None else responses[band]
    table = scene.hsi.bands.take(scene.bands)
    estimate = estimate_response(seen[:, ::step], guide[::step], table, name=names[band], nominal=nominal)
    if estimate is None:
        _log.warning("The response of %s could not be measured; %s.", names[band],
                     "it stays unknown" if nominal is None else f"taken as {nominal.source}")  # fmt: skip
        return scene, None
    found = GuideResponse(names[band], estimate)
    _log.log(logging.INFO, "Response of %s: %s.", names[band], found.text)
    every = [estimate.response] if responses is None else list(responses)
    every[band] = estimate.response
    msi = scene.msi
    known = msi.with_responses(every) if isinstance(msi, JoinedGuide) else KnownResponses(msi, every)
    return replace(scene, msi=known), found
