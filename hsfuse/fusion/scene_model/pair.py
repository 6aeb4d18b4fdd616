"""A pair on the HSI's grid, and how the guide follows from the HSI there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CoarsePair:
    """Both images on the HSI grid.

    Attributes
    ----------
    components
        HSI in the noise-whitened signal subspace, shape (component, row, col); noise of unit variance.
    predicted
        MSI bands by the spectral responses, shape (msi band, row, col); None where these are unknown.
    level
        Mean variance of the HSI's bands times ``forward @ forward.T``: the ridge in the components' metric.
    valid
        Pixels that are measured in both images, with all that their blur looks at, shape (row, col).
    rim
        Others that are measured in both images: beside gaps and masked clouds. Nothing is learned from them, but a
        strong contradiction shows there too, and rims of clouds are what masks miss most. None: there are none.
    """

    components: NDArray[np.floating]
    predicted: NDArray[np.floating] | None
    level: FloatArray
    valid: NDArray[np.bool_]
    rim: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class GuideRelation:
    """Result of the regression.

    Attributes
    ----------
    seen
        What the HSI shows of the MSI bands, shape (msi band, row, col).
    gain, offset
        Of the field: ``msi = gain * seen + offset``, shape (msi band, row, col); 1 and 0 without one.
    distance
        Squared Mahalanobis distance of the residual, scaled so that its lower quartile is that of Gaussian residuals,
        shape (row, col); 0 where the pair is neither valid nor a rim.
    variance
        Of the residual by band and pixel, shape (msi band, row, col).
    synthesis
        MSI bands per component, shape (msi band, component).
    weight
        Final weights, shape (row, col).
    nuisance
        Coefficients of the nuisance regressors, shape (msi band, regressor).
    remoteness
        Squared Mahalanobis distance of the components from those that the relation rests on, over their number, shape
        (row, col); about 1, and large for materials that it says nothing about. 1 where the responses are known, which
        hold for every material.
    """

    seen: FloatArray
    gain: NDArray[np.floating]
    offset: NDArray[np.floating]
    distance: FloatArray
    variance: FloatArray
    synthesis: FloatArray
    weight: FloatArray
    nuisance: FloatArray
    remoteness: FloatArray
