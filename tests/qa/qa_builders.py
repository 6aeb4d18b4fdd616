"""Small scenes with known content for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.selection import BandEvidence
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult, TiePoints, Verdict
from hsfuse.readers.base import ProductInfo

CENTRE_NM = np.concatenate(
    [np.arange(430.0, 900.0, 20.0), np.arange(990.0, 1090.0, 20.0), np.arange(1180.0, 1330.0, 25.0),
     np.arange(1500.0, 1780.0, 25.0), np.arange(2010.0, 2340.0, 25.0)]
)  # fmt: skip
WATER_WINDOWS = ((1340.0, 1490.0), (1790.0, 2000.0))


def spectrum(kind: str) -> NDArray[np.float64]:
    """A spectrum that everybody would call by its name."""
    c = CENTRE_NM
    if kind == "vegetation":
        edge = 0.04 + 0.42 / (1 + np.exp(-(c - 718) / 14)) + 0.04 * np.exp(-(((c - 555) / 35) ** 2))
        return edge * np.where(c > 1300, np.where(c > 1900, 0.2, 0.5), 1.0)
    if kind == "soil":
        return 0.06 + 0.36 * (1 - np.exp(-(c - 380) / 700)) - 0.04 * np.exp(-(((c - 2205) / 40) ** 2))
    if kind == "water":
        return 0.05 * np.exp(-(((c - 530) / 110) ** 2)) + 0.004
    if kind == "built-up":
        return np.full(c.shape, 0.22)
    raise ValueError(kind)


PATCHES = {"vegetation": (8, 10), "soil": (8, 40), "water": (38, 10), "built-up": (38, 40)}
"""Upper-left corner of each patch of 12 x 12 pixels in :func:`patch_scene`."""


def patch_scene(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One even patch of each surface in a noisy mixture, shape (band, 60, 64), and its valid mask."""
    rng = np.random.default_rng(seed)
    library = np.stack([spectrum(kind) for kind in PATCHES])
    shares = rng.dirichlet(np.full(4, 0.7), size=(60, 64))
    cube = np.einsum("rck,kb->brc", shares, library)
    for number, (row, col) in enumerate(PATCHES.values()):
        cube[:, row : row + 12, col : col + 12] = library[number][:, None, None]
    cube += rng.normal(0.0, 0.001, cube.shape)
    return cube.astype(np.float32), np.ones((60, 64), dtype=bool)


def bending_field() -> DisplacementField:
    """A shift that changes across the scene."""
    affine = np.array([[80.0, 4e-4, -6e-4], [-40.0, 5e-4, 3e-4]])
    return DisplacementField(affine, (515_000.0, 5_005_000.0))


def points(x, y, dx, dy, used) -> TiePoints:
    """Points of equal quality."""
    one = np.ones(x.size)
    return TiePoints(x, y, dx, dy, one, one, one, np.asarray(used, dtype=bool), one)


def coregistration(
    verdict: Verdict = "accepted", field: DisplacementField | None = None, count: int = 120
) -> CoregistrationResult:
    """A co-registration result with points around a known field, every tenth one wild and rejected."""
    rng = np.random.default_rng(5)
    field = field or bending_field()
    x, y = rng.uniform(500_000, 530_000, count), rng.uniform(4_990_000, 5_020_000, count)
    dx, dy = field.at(x, y)
    dx, dy = dx + rng.normal(0, 2.0, count), dy + rng.normal(0, 2.0, count)
    wild = np.arange(count) % 10 == 0
    dx[wild] += 90.0
    held = (np.arange(count) % 5 == 1) & ~wild
    fx, fy = field.at(x[held], y[held])
    error = np.hypot(dx[held] - fx, dy[held] - fy)
    figures = [float(np.sqrt(np.mean(error**2))), float(np.percentile(error, 95)), float(np.percentile(error, 90))]
    rest = ~held
    return CoregistrationResult(
        verdict, "", field, points(x[rest], y[rest], dx[rest], dy[rest], ~wild[rest]),
        points(x[held], y[held], dx[held], dy[held], np.ones(held.sum())),
        *(figures if held.any() else [float("nan")] * 3), bias_m=0.3, count=int(held.sum()),
        global_shift_m=(81.0, -42.0), peak_ratio=4.2,
    )  # fmt: skip


def band(centre_nm: float, **values: Any) -> BandEvidence:
    """Evidence for a band; kept, without a measured signal-to-noise ratio."""
    nothing = dict.fromkeys(("error_fraction", "zero_fraction", "negative_fraction"), 0.0)
    facts = {"index": 0, "fwhm_nm": 10.0, "detector": "", "slot": 1, "mean": 0.2, "snr": float("nan"),
             "stripe": float("nan"), "correlation": 1.0, "window": "", "score": 1.0, "kept": True,
             "reason": ""}  # fmt: skip
    return BandEvidence(centre_nm=float(centre_nm), **{**nothing, **facts, **values})


def product_info(name: str = "PRS_L2D.he5", **values: Any) -> ProductInfo:
    """Facts about a product."""
    return ProductInfo(**{"name": name, "sensor": "PRISMA", "level": "2D", "path": Path("/data/a.he5"), **values})
