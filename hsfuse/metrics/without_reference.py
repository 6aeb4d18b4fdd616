"""Metrics of a scene without reference, as entries of the registry."""

from __future__ import annotations

from hsfuse.metrics.evidence import Kind
from hsfuse.metrics.metric import Limits, Metric, MetricText
from hsfuse.metrics.noreference import (
    block_quality,
    hsi_difference,
    hybrid_quality,
    mean_angle,
    msi_difference,
    quality_no_reference,
    relative_error,
    relative_global_error,
    root_mean_square,
    spatial_distortion,
    spectral_distortion,
)

_BOTH: frozenset[Kind] = frozenset({"hsi", "msi"})
_HSI: frozenset[Kind] = frozenset({"hsi"})
_MSI: frozenset[Kind] = frozenset({"msi", "srf"})

QNR = Metric(
    "qnr", block_quality, _BOTH,
    MetricText(
        "QNR",
        "Quality without reference: (1 − D_lambda)(1 − D_s). Summarises how well relations between bands and spatial "
        "detail were kept (Alparone et al. 2008).",
        "higher, ideal 1",
    ),
    direction=1, rank=110, combine=quality_no_reference,
    limits=Limits(0.85, 0.60, "spectral or spatial relations between the bands were distorted"),
)  # fmt: skip
HQNR = Metric(
    "hqnr", block_quality, _BOTH,
    MetricText(
        "HQNR",
        "Hybrid QNR: agreement of the degraded cube with the HSI (Q2n over all bands jointly) times (1 − D_s) "
        "(Khan et al. 2009).",
        "higher, ideal 1",
    ),
    direction=1, rank=120, combine=hybrid_quality,
)  # fmt: skip
D_LAMBDA = Metric(
    "d_lambda", block_quality, _BOTH,
    MetricText(
        "Spectral distortion D_lambda",
        "How much the similarity between pairs of bands changed from the HSI to the fused cube.",
        "lower, ideal 0",
    ),
    direction=-1, rank=130, combine=spectral_distortion,
    limits=Limits(0.08, 0.25, "the relations between bands changed"),
)  # fmt: skip
D_S = Metric(
    "d_s", block_quality, _BOTH,
    MetricText(
        "Spatial distortion D_s",
        "How differently the fused bands relate to the MSI at fine and at coarse resolution.",
        "lower, ideal 0",
    ),
    direction=-1, rank=140, combine=spatial_distortion,
    limits=Limits(0.12, 0.30, "the detail does not follow the MSI's detail"),
)  # fmt: skip
HSI_RMSE = Metric(
    "hsi_rmse", hsi_difference, _HSI,
    MetricText(
        "Consistency with the HSI (RMSE)",
        "The fused cube, degraded to the HSI's resolution with its point spread function, minus the HSI (Wald's "
        "consistency). Values near the HSI's own noise are as good as can be.",
        "lower, ideal the HSI's noise", " reflectance", 4,
    ),
    direction=-1, rank=150, combine=root_mean_square,
    limits=Limits(0.010, 0.040, "the cube, degraded to the HSI's resolution, is not what the HSI measured"),
)  # fmt: skip
HSI_SAM = Metric(
    "hsi_sam_deg", hsi_difference, _HSI,
    MetricText(
        "Consistency with the HSI (spectral angle)",
        "Mean angle between each spectrum of the degraded cube and the HSI's; does not react to brightness.",
        "lower, ideal 0", "°", 2,
    ),
    direction=-1, rank=160, combine=mean_angle,
    limits=Limits(2.0, 6.0, "the shape of the spectra changed against the HSI"),
)  # fmt: skip
HSI_ERGAS = Metric(
    "hsi_ergas", relative_error, _HSI,
    MetricText(
        "Consistency with the HSI (ERGAS)", "Relative error over all bands of the degraded cube against the HSI.",
        "lower, ideal 0", "", 2,
    ),
    direction=-1, rank=170, combine=relative_global_error,
)  # fmt: skip
MSI_RMSE = Metric(
    "msi_rmse", msi_difference, _MSI,
    MetricText(
        "Consistency with the MSI (RMSE)",
        "The fused cube, weighted with the MSI's spectral responses, minus the MSI at full resolution. It contains "
        "real differences between the two sensors and days.",
        "lower, ideal 0", " reflectance", 4,
    ),
    direction=-1, rank=180, combine=root_mean_square,
    limits=Limits(
        0.020, 0.060,
        "the cube, seen through the MSI's bands, is not what the MSI measured; a season or haze between the days does "
        "that too",
    ),
)  # fmt: skip
