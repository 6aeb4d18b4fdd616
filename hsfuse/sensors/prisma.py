"""PRISMA facts that its products do not carry.

The panchromatic camera sees 400 to 700 nm (ASI, PRISMA Product Specification, issue 2.3, table of instrument
characteristics); its response is not published. What stands here is therefore nominal, and is measured on every scene
where that is possible (:mod:`hsfuse.degrade.response_estimation`).
"""

from __future__ import annotations

from dataclasses import replace

from hsfuse.spectral import SpectralResponse

PAN_NAME = "PAN"
"""Name of the panchromatic band."""
PAN_RANGE_NM = (400.0, 700.0)


def pan_response() -> SpectralResponse:
    """Return the nominal response of the panchromatic band: flat over its range."""
    low, high = PAN_RANGE_NM
    flat = SpectralResponse.flat_top(PAN_NAME, 0.5 * (low + high), high - low)
    return replace(flat, source=f"nominal, {low:g} to {high:g} nm", assumed=True)
