"""What each score means, for people who read a report and did not write the software."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScoreText:
    """How a score is printed and explained.

    Attributes
    ----------
    label
        Name in the report.
    meaning
        One or two sentences.
    better
        Direction or ideal value in words.
    unit, decimals
        How its value is printed.
    """

    label: str
    meaning: str
    better: str
    unit: str = ""
    decimals: int = 3

    @property
    def direction(self) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither."""
        return {"higher": 1, "lower": -1}.get(self.better.split(",", maxsplit=1)[0], 0)

    def show(self, value: float | None) -> str:
        """Return the value with its unit."""
        if value is None:
            return "not computed"
        if not np.isfinite(value):
            return "infinite" if np.isposinf(value) else "not computable"
        return f"{value:.{self.decimals}f}{self.unit}".replace("-", "−")


NO_REFERENCE: Mapping[str, ScoreText] = {
    "qnr": ScoreText(
        "QNR",
        "Quality without reference: (1 − D_lambda)(1 − D_s). Summarises how well relations between bands and spatial "
        "detail were kept (Alparone et al. 2008).",
        "higher, ideal 1",
    ),
    "hqnr": ScoreText(
        "HQNR",
        "Hybrid QNR: agreement of the degraded cube with the HSI (Q2n over all bands jointly) times (1 − D_s) "
        "(Khan et al. 2009).",
        "higher, ideal 1",
    ),
    "d_lambda": ScoreText(
        "D_lambda",
        "Spectral distortion: how much the similarity between pairs of bands changed from the HSI to the fused cube.",
        "lower, ideal 0",
    ),
    "d_s": ScoreText(
        "D_s",
        "Spatial distortion: how differently the fused bands relate to the MSI at fine and at coarse resolution.",
        "lower, ideal 0",
    ),
    "hsi_rmse": ScoreText(
        "Consistency with the HSI, RMSE",
        "The fused cube, degraded to the HSI's resolution with its point spread function, minus the HSI (Wald's "
        "consistency). Values near the HSI's own noise are as good as can be.",
        "lower, ideal the HSI's noise",
        " reflectance",
        4,
    ),
    "hsi_sam_deg": ScoreText(
        "Consistency with the HSI, spectral angle",
        "Mean angle between each spectrum of the degraded cube and the HSI's; does not react to brightness.",
        "lower, ideal 0",
        "°",
        2,
    ),
    "hsi_ergas": ScoreText(
        "Consistency with the HSI, ERGAS",
        "Relative error over all bands of the degraded cube against the HSI.",
        "lower, ideal 0",
        "",
        2,
    ),
    "hsi_cc": ScoreText(
        "Consistency with the HSI, correlation",
        "Mean correlation of each degraded band with the HSI's.",
        "higher, ideal 1",
    ),
    "msi_rmse": ScoreText(
        "Consistency with the MSI, RMSE",
        "The fused cube, weighted with the MSI's spectral responses, minus the MSI at full resolution. It contains "
        "real differences between the two sensors and days.",
        "lower, ideal 0",
        " reflectance",
        4,
    ),
    "msi_cc": ScoreText(
        "Consistency with the MSI, correlation",
        "Mean correlation of the cube, weighted with the MSI's spectral responses, with the MSI.",
        "higher, ideal 1",
    ),
    "pure_pixel_sam_deg": ScoreText(
        "Pure-pixel spectra, median angle",
        "Median spectral angle between HSI pixels and the mean of the fused pixels inside them, over the even surfaces "
        "shown below (without water, whose angle is mostly noise, and pixels of low purity).",
        "lower, ideal 0",
        "°",
        2,
    ),
    "seam_ratio": ScoreText(
        "Seams",
        "Step across tile borders over the step beside them.",
        "1 = borders cannot be seen",
    ),
    "coverage": ScoreText("Valid share", "Share of the output that holds data.", "higher", "", 3),
}

WITH_REFERENCE: Mapping[str, ScoreText] = {
    "psnr": ScoreText(
        "PSNR", "Peak signal to noise ratio, mean over bands, peak = largest value of each band.", "higher", " dB", 2
    ),
    "psnr_global": ScoreText(
        "PSNR, global peak", "Peak signal to noise ratio with one peak for the cube.", "higher", " dB", 2
    ),
    "sam_deg": ScoreText("SAM", "Mean spectral angle against the reference.", "lower, ideal 0", "°", 3),
    "ergas": ScoreText("ERGAS", "Relative error over all bands (100 / ratio).", "lower, ideal 0", "", 3),
    "cc": ScoreText("CC", "Mean correlation of bands with the reference.", "higher, ideal 1", "", 4),
    "rmse": ScoreText("RMSE", "Root mean square error.", "lower, ideal 0", " reflectance", 5),
    "ssim": ScoreText("SSIM", "Structural similarity, mean over bands.", "higher, ideal 1", "", 4),
    "q2n": ScoreText("Q2n", "Hypercomplex quality index over all bands jointly.", "higher, ideal 1", "", 4),
    "seconds": ScoreText("Time", "Wall time of the method.", "lower", " s", 1),
    "memory_mb": ScoreText("Memory", "Growth of the process while the method ran, at its peak.", "lower", " MB", 0),
    "vram_mb": ScoreText("GPU memory", "Peak memory of the method on the GPU.", "lower", " MB", 0),
}

TEXTS: Mapping[str, ScoreText] = {**NO_REFERENCE, **WITH_REFERENCE}


def score_text(key: str) -> ScoreText:
    """Return how a score is printed (``PSNR``, ``psnr`` and ``psnr_db`` are one); an unknown one as it is."""
    plain = key.lower().removesuffix("_db")
    return TEXTS.get({"sam": "sam_deg"}.get(plain, plain)) or ScoreText(key, "", "", "", 4)
