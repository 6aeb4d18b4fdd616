"""UHNTC on a scene: nothing is known but the pair, and the network learns on windows of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import upsample
from hsfuse.errors import HsfuseError, OverlapError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.classical.statistics import PairStatistics, gather
from hsfuse.fusion.classical.unmixing import response_between, sample_pixels
from hsfuse.log import get_logger

if TYPE_CHECKING:
    import torch

    from hsfuse.fusion.methods.uhntc.network import Subspace, UhntcNetwork

_log = get_logger(__name__)

_WINDOW_PX, _MOST_WINDOWS, _BATCH = 16, 24, 2
_SAMPLES = 6000
_SMOOTH, _AGREE = 0.01, 1.0
"""Weights of the total variation, and of what the sensors' models say of the pair itself."""
_FLOP_PER_PIXEL = 1.5e5


@dataclass(frozen=True)
class _Window:
    """A part of the pair, shapes (band, row, col) and (msi band, row * ratio, col * ratio)."""

    hsi: NDArray[np.float32]
    msi: NDArray[np.float32]


class Uhntc(FusionMethod):
    """Unsupervised hybrid network.

    Parameters
    ----------
    steps
        Training steps of fusion network and sensors' models together; 4000 as published.
    sensor_steps
        Steps in which the sensors' models alone are fitted to the pair before.
    width
        Features of the network.
    components
        Leading components of the spectra that it changes.
    rate
        Learning rate of the network; that of the sensors' models is an eightieth of it, as published.

    References
    ----------
    Cao et al., UHNTC, IEEE TGRS 62, 2024.
    """

    def __init__(
        self, *, steps: int = 300, sensor_steps: int = 60, width: int = 24, components: int = 10, rate: float = 8e-3
    ) -> None:
        if min(steps, width, components) < 1 or sensor_steps < 0 or rate <= 0:
            raise UsageError("The settings of UHNTC must be positive.")
        self._steps, self._sensor_steps, self._width, self._count = steps, sensor_steps, width, components
        self._rate = rate
        self._ratio = 3
        self._network: UhntcNetwork | None = None
        self._space: Subspace | None = None
        self._msi_scale: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        learned = self._steps * _BATCH * (_WINDOW_PX * self._ratio) ** 2
        return ModelSpec(
            name="uhntc",
            kind="classical",
            halo_px=12,
            multiple_px=4,
            preferred_tile_px=64,
            bytes_per_pixel=6000,
            flop_per_pixel=_FLOP_PER_PIXEL,
            learn_flop=3.0 * learned * _FLOP_PER_PIXEL,
            reference="Cao 2024",
        )

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn on windows of the scene.

        Raises
        ------
        OverlapError
            The scene is too small to learn on.
        """
        import torch

        self._ratio = context.ratio
        windows = _windows(strips, context.ratio, context.seed)
        if not windows:
            raise OverlapError(
                f"The scene has no part of {_WINDOW_PX} x {_WINDOW_PX} HSI pixels that is valid in both images: too "
                "little to learn on.",
                hint="Use a larger area, or a method that does not learn on the scene, such as glp.",
            )
        statistics = gather(strips)
        hsi, msi = sample_pixels(strips, _SAMPLES, context.seed)
        gpus = [torch.device(context.device)] if context.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=gpus), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(context.seed)
            self._learn(windows, statistics, response_between(np.maximum(hsi, 0.0), msi), context)

    def _learn(
        self, windows: list[_Window], statistics: PairStatistics,
        response: tuple[NDArray[np.float64], NDArray[np.float64]], context: FusionContext,
    ) -> None:  # fmt: skip
        import torch

        from hsfuse.fusion.methods.uhntc.network import Sensors, UhntcNetwork

        device = context.device
        space = self._space = _subspace(statistics, self._count, device)
        spread = np.sqrt(np.maximum(np.diag(statistics.covariance), 1e-8))
        bands = statistics.bands
        unit, colour = (
            torch.as_tensor(part.astype(np.float32), device=device)[:, None, None]
            for part in (spread[:bands], spread[bands:])
        )
        mean = torch.as_tensor(statistics.msi_mean.astype(np.float32), device=device)[:, None, None]
        self._msi_scale = mean, colour
        network = UhntcNetwork(space.basis.shape[1], len(mean), self._width).to(device)
        sensors = Sensors(context.psf, context.ratio, *response).to(device)
        pairs = [
            (torch.as_tensor(w.hsi, device=device)[None], torch.as_tensor(w.msi, device=device)[None]) for w in windows
        ]
        own = torch.optim.AdamW(network.parameters(), lr=self._rate, weight_decay=0.0)
        theirs = torch.optim.AdamW(sensors.parameters(), lr=self._rate / 80.0, weight_decay=0.0)
        order = np.random.default_rng([context.seed, 5])
        self._network = network.train()
        for step in range(self._sensor_steps + self._steps):
            chosen = order.integers(len(pairs), size=_BATCH)
            hsi, msi = (torch.cat([pairs[i][part] for i in chosen]) for part in (0, 1))
            agree = ((sensors.coarse(msi) - sensors.colours(hsi)) / colour).abs().mean()
            loss = _AGREE * agree
            if step >= self._sensor_steps:
                rate = self._rate * (0.02 + 0.98 * (1.0 - (step - self._sensor_steps) / self._steps))
                for group in own.param_groups:
                    group["lr"] = rate
                cube = self._fused(hsi, msi)
                loss = loss + ((sensors.coarse(cube) - hsi) / unit).abs().mean()
                loss = loss + ((sensors.colours(cube) - msi) / colour).abs().mean() + _SMOOTH * _variation(cube / unit)
            own.zero_grad()
            theirs.zero_grad()
            loss.backward()
            own.step()
            theirs.step()
        network.eval()
        _log.info(
            "uhntc: learned on %d windows in %d steps, loss %.4f.", len(windows), self._steps, float(loss.detach())
        )

    def _fused(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        if self._network is None or self._space is None or self._msi_scale is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        start = upsample(hsi, self._ratio)
        mean, spread = self._msi_scale
        change = self._network(self._space.components(start), (msi - mean) / spread, self._ratio)
        return start + self._space.spectra(change)

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        import torch

        with torch.inference_mode():
            return self._fused(hsi.float(), msi.float())


def _subspace(statistics: PairStatistics, count: int, device: str) -> Subspace:
    """Leading components of the HSI."""
    import torch

    from hsfuse.fusion.methods.uhntc.network import Subspace

    bands = statistics.bands
    values, vectors = np.linalg.eigh(statistics.covariance[:bands, :bands])
    kept = slice(-min(count, bands), None)
    deviation = np.sqrt(np.maximum(values[kept], 1e-10))
    parts = statistics.hsi_mean, vectors[:, kept] * deviation, (vectors[:, kept] / deviation).T
    return Subspace(*(torch.as_tensor(np.ascontiguousarray(p), dtype=torch.float32, device=device) for p in parts))


def _variation(image: torch.Tensor) -> torch.Tensor:
    return image.diff(dim=2).abs().mean() + image.diff(dim=3).abs().mean()


def _windows(strips: Iterable[LowResolutionStrip], ratio: int, seed: int) -> list[_Window]:
    """Draw valid windows of the pair, spread over the scene."""
    generator = np.random.default_rng([seed, 3])
    found: list[tuple[float, _Window]] = []
    for strip in strips:
        for key, window in _valid_windows(strip, ratio, generator):
            found.append((key, window))
            if len(found) > 2 * _MOST_WINDOWS:
                found = sorted(found, key=lambda item: item[0])[:_MOST_WINDOWS]
    return [window for _, window in sorted(found, key=lambda item: item[0])[:_MOST_WINDOWS]]


def _valid_windows(
    strip: LowResolutionStrip, ratio: int, generator: np.random.Generator
) -> Iterator[tuple[float, _Window]]:
    if strip.fine is None:
        return
    side = _WINDOW_PX
    for row in range(0, strip.valid.shape[0] - side + 1, side):
        for col in range(0, strip.valid.shape[1] - side + 1, side):
            key = float(generator.random())
            rows, cols = slice(row, row + side), slice(col, col + side)
            top = (strip.fine_above + row) * ratio
            fine = strip.fine[:, top : top + side * ratio, col * ratio : (col + side) * ratio]
            if strip.valid[rows, cols].all() and np.isfinite(fine).all() and fine.shape[1] == side * ratio:
                yield key, _Window(strip.hsi[:, rows, cols].copy(), np.ascontiguousarray(fine))
