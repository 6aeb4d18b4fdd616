"""Stage 1: sample the chosen bands at the guide's resolution, guided by what HSI and guide measured.

The sampler visits the noise levels of the prior with a stride, without fresh noise on the way (DDIM). At every level
the prior's idea of the clean bands is brought to both measurements: along the gradient of the difference to the HSI
after blur and decimation, by an interpolation of it, and along that of the difference to the guide, by an exact step,
because the guide is linear in the few bands of a pixel.

The scene is sampled in windows that are counted from its origin, each with a margin, one at a time and with noise that
belongs to the place: what comes out does not depend on how the scene is cut into tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from hsfuse.degrade import Psf, lowpass_decimate, upsample
from hsfuse.fusion.methods.mpsrnet_diff.low_rank import LowRankModel
from hsfuse.fusion.nets.diffusion.noise import pixel_noise
from hsfuse.fusion.nets.diffusion.schedule import signal_power, strided
from hsfuse.fusion.nets.diffusion.unet import SPREAD, PatchPrior
from hsfuse.fusion.place import Place

MARGIN_PX = 2
"""Context around a window that is sampled too and thrown away, HSI pixels."""


@dataclass(frozen=True)
class PriorSampler:
    """Samples prior cubes.

    Attributes
    ----------
    prior
        The diffusion prior.
    model
        Low-rank model of the scene.
    psf
        Blur of the HSI.
    ratio
        Fine pixels per HSI pixel.
    window_px
        Side of the windows, HSI pixels.
    steps
        Noise levels that are visited.
    seed
        Of the scene.
    """

    prior: PatchPrior
    model: LowRankModel
    psf: Psf
    ratio: int
    window_px: int
    steps: int
    seed: int

    def cube(self, hsi: Tensor, guide: Tensor, place: Place, rows: slice, cols: slice) -> Tensor:
        """Prior cube of a tile: interpolated outside the windows that touch the wanted rows and columns.

        Parameters
        ----------
        hsi, guide
            Shapes (band, row, col) and (guide band, row * ratio, col * ratio), reflectance.
        place
            Where the tile begins in the scene, HSI pixels; a multiple of the windows' side.
        rows, cols
            What is wanted, HSI pixels of the tile.

        Returns
        -------
        torch.Tensor
            Shape (band, row * ratio, col * ratio).
        """
        side, r = self.window_px, self.ratio
        chosen = hsi[torch.as_tensor(self.model.bands, device=hsi.device)]
        smooth = upsample(chosen[None], r)[0]
        sharp = smooth.clone()
        for top in range(rows.start // side * side, rows.stop, side):
            for left in range(cols.start // side * side, cols.stop, side):
                bottom, right = min(top + side, hsi.shape[1]), min(left + side, hsi.shape[2])
                made = self._window(chosen, guide, place, top, left)
                inner = made[:, : (bottom - top) * r, : (right - left) * r]
                sharp[:, top * r : bottom * r, left * r : right * r] = inner
        detail = torch.einsum("br,rij->bij", self.model.expand, sharp - smooth)
        return upsample(hsi[None], r)[0] + detail

    def _window(self, chosen: Tensor, guide: Tensor, place: Place, top: int, left: int) -> Tensor:
        """Sample one window with its margin; return the window, reflectance of the chosen bands."""
        side, r, m = self.window_px, self.ratio, MARGIN_PX
        low = _cut(chosen, top - m, left - m, side + 2 * m)
        seen = _cut(guide, (top - m) * r, (left - m) * r, (side + 2 * m) * r)
        at = ((place[0] + top - m) * r, (place[1] + left - m) * r)
        made = self.sample(low, seen, at)
        inner = slice(m * r, (m + side) * r)
        return made[:, inner, inner]

    @torch.no_grad()
    def sample(self, low: Tensor, guide: Tensor, at: Place) -> Tensor:
        """Sample the chosen bands of a patch.

        Parameters
        ----------
        low
            The chosen bands as the HSI has them, shape (rank, row, col).
        guide
            Shape (guide band, row * ratio, col * ratio).
        at
            Place of the patch's first fine pixel in the scene.
        """
        model, r = self.model, self.ratio
        scale = (model.spread / SPREAD)[:, None, None]
        target = (low - model.mean[:, None, None]) / scale
        gain = model.guide * scale[:, 0, 0]
        wanted = guide - model.guide_mean[:, None, None]
        # Detail of the guide is handed to the bands as they vary together: a step in that metric, not in plain numbers.
        together = model.detail / (scale[:, 0, 0][:, None] * scale[:, 0, 0][None, :])
        pull = together @ gain.T @ torch.linalg.inv(gain @ together @ gain.T + model.misfit)
        power = signal_power(self.prior.settings.steps)
        levels = strided(self.prior.settings.steps, self.steps)
        x = torch.from_numpy(pixel_noise(self.seed, 0, *at, (len(low), *guide.shape[1:]))).to(low.device)
        start = float(power[levels[0]])
        x = start**0.5 * upsample(target[None], r)[0] + (1.0 - start) ** 0.5 * x
        clean = x
        for index, level in enumerate(levels):
            now = float(power[level])
            clean = self._guided(self._denoised(x, now), target, wanted, gain, pull)
            if index + 1 < len(levels):
                then = float(power[levels[index + 1]])
                noise = (x - now**0.5 * clean) / (1.0 - now) ** 0.5
                x = then**0.5 * clean + (1.0 - then) ** 0.5 * noise
        return clean * scale + model.mean[:, None, None]

    def _denoised(self, x: Tensor, power: float) -> Tensor:
        multiple = self.prior.settings.multiple
        rows, cols = x.shape[1:]
        padded = F.pad(x[None], (0, -cols % multiple, 0, -rows % multiple), mode="reflect")
        out: Tensor = self.prior(padded, torch.tensor([power], device=x.device))
        return out[0, :, :rows, :cols].clamp(-1.5, 1.5)

    def _guided(self, clean: Tensor, target: Tensor, wanted: Tensor, gain: Tensor, pull: Tensor) -> Tensor:
        """Bring the bands to what was measured: to the guide, then to the HSI."""
        missing = wanted - torch.einsum("cr,rij->cij", gain, clean)
        clean = clean + torch.einsum("rc,cij->rij", pull, missing)
        left = target - lowpass_decimate(clean[None], self.ratio, self.psf)[0]
        return clean + upsample(left[None], self.ratio)[0]


def _cut(image: Tensor, top: int, left: int, side: int) -> Tensor:
    """Cut a square; what lies outside the image repeats its edge."""
    rows = torch.arange(top, top + side, device=image.device).clamp(0, image.shape[1] - 1)
    cols = torch.arange(left, left + side, device=image.device).clamp(0, image.shape[2] - 1)
    return image[:, rows][:, :, cols]
