"""NLSTF on a scene: dictionaries are learned once, patches are coded tile by tile on a fixed grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Psf, psf_kernel
from hsfuse.errors import HsfuseError, OverlapError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.classical.statistics import MIN_PIXELS
from hsfuse.fusion.classical.unmixing import response_between, sample_pixels, too_few_pixels
from hsfuse.fusion.fidelity import back_project
from hsfuse.fusion.methods.nlstf.dictionaries import Dictionaries, learn, sample_patches

if TYPE_CHECKING:
    import torch

    from hsfuse.fusion.methods.nlstf.coding import Modes

_SAMPLES = 6000
_PATCH = 6
"""A patch is about so large; its side is twice the step of the grid, a multiple of the ratio."""
_WIDEST_STEP = 2
"""HSI pixels; at a ratio of 2. At larger ones the step is one HSI pixel."""


@dataclass(frozen=True)
class _Learned:
    """Dictionaries on the device, as both images see them and as they are."""

    centroid: torch.Tensor
    seen: tuple[Modes, Modes]
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    basis: torch.Tensor
    offset: torch.Tensor


class Nlstf(FusionMethod):
    """Non-local sparse tensor factorisation.

    Patches lie on a grid counted from the scene's origin, so that tiles agree. The response between the sensors is
    found on the pair; what the HSI sees of a patch is its blur inside the patch.

    Parameters
    ----------
    clusters, atoms, spectra
        Clusters of alike patches at most, atoms of the row and column dictionaries, and spectra of each cluster.
    sparsity, weight, iterations
        Of the coding; see :func:`hsfuse.fusion.methods.nlstf.coding.code`.
    back_projections
        Steps of back-projection on the HSI behind it.

    References
    ----------
    R. Dian, L. Fang, S. Li, Hyperspectral image super-resolution via non-local sparse tensor factorization, CVPR 2017;
    R. Dian, S. Li, L. Fang, T. Lu, J. M. Bioucas-Dias, Nonlocal sparse tensor factorization for semiblind hyperspectral
    and multispectral image fusion, IEEE Trans. Cybernetics 50, 2020.
    """

    def __init__(
        self, *, clusters: int = 151, atoms: int = 10, spectra: int = 14, sparsity: float = 1e-6, weight: float = 1e-2,
        iterations: int = 30, back_projections: int = 1,
    ) -> None:  # fmt: skip
        if min(clusters, atoms, spectra, iterations) < 1 or min(sparsity, weight) <= 0 or back_projections < 0:
            raise UsageError("The settings of NLSTF must be positive.")
        self._sizes = {"clusters": clusters, "atoms": atoms, "spectra": spectra}
        self._coding = {"sparsity": sparsity, "weight": weight, "iterations": iterations}
        self._steps = back_projections
        self._ratio, self._psf = 2, Psf()
        self._learned: _Learned | None = None

    @property
    def _step_px(self) -> int:
        """Step of the patches' grid, fine pixels."""
        return self._ratio * max(1, round(_PATCH / 2 / self._ratio))

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        # Before the ratio is known: the coarsest grid, which the others divide.
        step = _WIDEST_STEP
        reach = 2 * step + self._steps * (2 + self._psf.reach_px(self._ratio))
        cores = self._sizes["atoms"] ** 2 * self._sizes["spectra"]
        per_patch = 2 * 4 * cores * (2 * self._sizes["atoms"] + self._sizes["spectra"]) * self._coding["iterations"]
        return ModelSpec(
            name="nlstf",
            kind="classical",
            halo_px=-(-reach // step) * step,
            multiple_px=step,
            preferred_tile_px=48,
            bytes_per_pixel=6000,
            flop_per_pixel=per_patch / self._step_px**2,
            learn_flop=2e10,
            reference="Dian 2017, 2020",
        )

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn clusters, dictionaries and the response between the sensors.

        Raises
        ------
        OverlapError
            Too few pixels are valid in both images, or the guide has no whole patch.
        """
        self._ratio, self._psf = context.ratio, context.psf
        hsi, msi = sample_pixels(strips, _SAMPLES, context.seed)
        patches = sample_patches(strips, 2 * self._step_px, self._step_px, context.ratio, context.seed)
        if hsi.shape[1] < MIN_PIXELS:
            raise too_few_pixels(hsi.shape[1])
        if len(patches) == 0:
            side = 2 * self._step_px
            raise OverlapError(
                f"The guide has no patch of {side} x {side} pixels without gaps, and NLSTF learns from whole patches.",
                hint="Use a larger area, or a method that learns from single pixels, such as glp.",
            )
        response, offset = response_between(np.maximum(hsi, 0.0), msi)
        found = learn(patches, np.maximum(hsi, 0.0), msi, **self._sizes, seed=context.seed)
        self._learned = self._on_device(found, response, offset, _basis(hsi, self._sizes["spectra"]), context.device)

    def _on_device(
        self, found: Dictionaries, response: NDArray[np.float64], offset: NDArray[np.float64],
        basis: NDArray[np.float64], device: str,
    ) -> _Learned:  # fmt: skip
        import torch

        from hsfuse.fusion.methods.nlstf.coding import Modes

        def put(array: NDArray[np.float64]) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)

        blur = _blur_inside(2 * self._step_px, self._ratio, self._psf)
        seen = (
            Modes.of(put(found.rows), put(found.cols), put(response @ found.spectra)),
            Modes.of(put(blur @ found.rows), put(blur @ found.cols), put(basis.T @ found.spectra)),
        )
        out = put(found.rows), put(found.cols), put(found.spectra)
        return _Learned(put(found.centroid), seen, out, put(basis), put(offset))

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        import torch
        import torch.nn.functional as F  # noqa: N812 - the field's own name

        from hsfuse.fusion.methods.nlstf.coding import code

        learned = self._learned
        if learned is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        step, ratio = self._step_px, self._ratio
        side, inner = 2 * step, 2 * step // ratio
        rows, cols = msi.shape[-2:]
        more = [(-size % step) + step for size in (rows, cols)]
        wide = F.pad(msi.float(), (0, more[1], 0, more[0]), mode="replicate")
        low = F.pad(hsi.float(), (0, more[1] // ratio, 0, more[0] // ratio), mode="replicate")
        fine = _cut(wide, side, step)
        coarse = _cut(low, inner, step // ratio)
        label = torch.cdist(fine.flatten(1), learned.centroid).argmin(dim=1)
        seen = (fine - learned.offset[:, None, None]).permute(0, 2, 3, 1)
        known = torch.einsum("pbij,bk->pijk", coarse, learned.basis)
        fused = code(seen, known, label, learned.seen, learned.out, **self._coding)  # type: ignore[arg-type]
        count = (hsi.shape[0], wide.shape[-2] // step - 1, wide.shape[-1] // step - 1)
        cube = _joined(fused.permute(0, 3, 1, 2), count, step)[..., :rows, :cols]
        return back_project(cube, hsi.float(), ratio, self._psf, steps=self._steps)


def _basis(hsi: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Leading directions of the HSI's spectra, shape (band, count): what its noise leaves of them."""
    vectors = np.linalg.eigh(hsi @ hsi.T)[1]
    return np.asarray(vectors[:, ::-1][:, : min(2 * count, len(hsi))])


def _blur_inside(side: int, ratio: int, psf: Psf) -> NDArray[np.float64]:
    """Blur and decimation of ``side`` fine pixels, shape (side / ratio, side); weights outside go to those inside."""
    kernel = psf_kernel(psf, ratio)
    reach = (len(kernel) - ratio) // 2
    blur = np.zeros((side // ratio, side))
    for row in range(side // ratio):
        for tap, value in enumerate(kernel):
            place = row * ratio - reach + tap
            if 0 <= place < side:
                blur[row, place] += value
    return np.asarray(blur / blur.sum(axis=1, keepdims=True))


def _cut(image: torch.Tensor, side: int, step: int) -> torch.Tensor:
    """All patches of (tile, band, row, col), row after row: (patch, band, side, side)."""
    windows = image.unfold(2, side, step).unfold(3, side, step)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def _joined(patches: torch.Tensor, count: tuple[int, int, int], step: int) -> torch.Tensor:
    """Mean of patches (patch, band, 2 * step, 2 * step) where they overlap: (tile, band, row, col)."""
    tiles, rows, cols = count
    bands = patches.shape[1]
    parts = patches.reshape(tiles, rows, cols, bands, 2, step, 2, step).permute(0, 3, 1, 4, 5, 2, 6, 7)
    total = patches.new_zeros(tiles, bands, rows + 1, step, cols + 1, step)
    times = patches.new_zeros(rows + 1, 1, cols + 1, 1)
    for down in (0, 1):
        for right in (0, 1):
            total[:, :, down : down + rows, :, right : right + cols] += parts[:, :, :, down, :, :, right]
            times[down : down + rows, :, right : right + cols] += 1.0
    return (total / times).reshape(tiles, bands, (rows + 1) * step, (cols + 1) * step)
