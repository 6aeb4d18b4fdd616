"""Open the guide that ``--guide`` names: Sentinel-2, the product's own panchromatic image, or both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import CoregisterConfig, RunConfig
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.degrade import Psf
from hsfuse.degrade.response_estimation import ResponseEstimate, estimate_response
from hsfuse.errors import CoregistrationError, InputError, UsageError
from hsfuse.inference.joined_guide import CoarsePixels, JoinedGuide
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.readers import open_msi
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.choose import choose_reader, likely_role
from hsfuse.readers.known_responses import KnownResponses
from hsfuse.readers.source_dates import DateWish

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


def open_guide(
    hsi: HyperspectralProduct, msi_paths: Sequence[Path], config: RunConfig, stack: ExitStack, *, dates: DateWish
) -> MultispectralProduct:
    """Open the guide; ``stack`` closes it, and ``dates`` says which ones of an archive are wanted.

    Raises
    ------
    InputError, OverlapError, UsageError
        It cannot be read or was not given, or the product brings no panchromatic image.
    """
    if config.guide == "pan":
        if msi_paths:
            raise UsageError(
                f"--guide pan takes the panchromatic image of {hsi.info.name} itself and no other image"
                f" ({msi_paths[0].name} was given).",
                hint="Leave it out, or use --guide pan+s2. A panchromatic raster is given as the MSI, without --guide.",
            )
        return own_panchromatic(hsi, stack)
    if not msi_paths:
        raise UsageError(
            "No Sentinel-2 product was given.",
            hint="Give one after the hyperspectral product, or use its own panchromatic image: --guide pan.",
        )
    # The guide of the product itself is the quicker one to be missing.
    pan = own_panchromatic(hsi, stack) if config.guide == "pan+s2" else None
    msi = open_msi(
        list(msi_paths), bands=config.s2_bands, target=hsi.grid, verify=config.verify, threads=config.threads,
        dates=dates,
    )  # fmt: skip
    stack.callback(msi.close)
    return msi if pan is None else JoinedGuide(msi, pan)


def brings_panchromatic(path: Path) -> bool:
    """Whether a file is of a kind that brings a panchromatic image; arrays in ``.npz`` files are no products."""
    if path.suffix.lower() == ".npz" or likely_role(path) != "hsi":
        return False
    return "pan" in choose_reader(path, "hsi").roles


def own_panchromatic(hsi: HyperspectralProduct, stack: ExitStack) -> MultispectralProduct:
    """Open the panchromatic image of a product.

    Raises
    ------
    InputError, OverlapError
        It has none, or none that can be used.
    """
    pan = hsi.panchromatic()
    if pan is None:
        raise InputError(
            f"{hsi.info.name} brings no panchromatic image.",
            hint="Use Sentinel-2 as the guide (--guide s2), or order the product with its panchromatic image.",
        )
    stack.callback(pan.close)
    return pan


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
