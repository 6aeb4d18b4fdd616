"""The one interface of every fusion method.

A method sees tensors and numbers only. It describes itself with a :class:`ModelSpec`, learns what it needs from
the whole scene at low resolution (:meth:`FusionMethod.fit`) and then fuses tile by tile
(:meth:`FusionMethod.fuse`); nothing that depends on a tile's position or size may leak into its result, or
seams appear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import NO_OFFSET, Offset, Psf, Window
from hsfuse.fusion.diagnostics import MethodDiagnostics

if TYPE_CHECKING:
    import torch
    from torch import nn

Told = TypeVar("Told")
Precision = Literal["fp32", "bf16", "fp16"]
Quality = Literal["fast", "standard", "best"]
"""How much is spent behind a method."""


@dataclass(frozen=True)
class ModelSpec:
    """What the tiler and the user may ask of a method.

    Attributes
    ----------
    name
        Name on the command line.
    kind
        ``classical`` or ``network``.
    halo_px
        Context that a result needs on each side, in HSI pixels; the tiler adds and discards it.
    overlap_px
        Overlap between neighbouring tiles that is blended, in HSI pixels; 0 where the halo makes tiles exact.
    multiple_px
        Tiles are read from and to multiples of this, counted from the scene's origin, in HSI pixels.
    padded
        Tiles that end with the scene are filled up to whole multiples; without it they end where it ends.
    preferred_tile_px
        Best tile side in HSI pixels when memory allows.
    card_tile_px
        The same of rows of tiles on a card, which may then be as wide as the scene: little of what it computes is
        context, and operations are large. None: as ``preferred_tile_px``, tiles as high as they are wide.
    bytes_per_pixel
        Working memory per 10 m pixel of a tile beyond input and output, in bytes.
    host_bytes_per_pixel
        The same on a CPU; None: as much.
    flop_per_pixel
        Arithmetic per 10 m pixel (for time estimates).
    touched_bytes_per_pixel
        What a network on a CPU is charged for besides, bytes per 10 m pixel that pass through memory; None:
        ``bytes_per_pixel``.
    learn_flop
        Arithmetic of :meth:`FusionMethod.fit` where it trains something.
    centre_nm
        Centre wavelengths that a trained network expects; None: any bands.
    ratios
        Ratios it works for; None: any integer >= 2.
    n_msi
        Number of MSI bands it expects; None: any.
    precisions
        Precisions it may run in; the first is the default.
    precision
        Precision it runs in.
    reference
        Paper or source.
    """

    name: str
    kind: Literal["classical", "network"]
    halo_px: int
    overlap_px: int = 0
    multiple_px: int = 1
    padded: bool = True
    preferred_tile_px: int = 128
    card_tile_px: int | None = None
    bytes_per_pixel: int = 2000
    host_bytes_per_pixel: int | None = None
    flop_per_pixel: float = 1e4
    touched_bytes_per_pixel: int | None = None
    learn_flop: float = 0.0
    centre_nm: tuple[float, ...] | None = None
    ratios: tuple[int, ...] | None = None
    n_msi: int | None = None
    precisions: tuple[Precision, ...] = ("fp32",)
    precision: Precision = "fp32"
    reference: str = ""
    weights_sha256: str | None = None


CHANGE_IMAGES = 2
"""Images that tell a method where the guide changed, see :meth:`FusionMethod.change_aware`."""


@dataclass(frozen=True)
class FusionContext:
    """Facts about the pair that every method may use.

    Attributes
    ----------
    ratio
        HSI pixel size over MSI pixel size.
    centre_nm, fwhm_nm
        Bands of the HSI handed to the method, shape (band,).
    srf
        Weights that turn the HSI bands into the MSI bands, shape (msi band, band); None when unknown.
    psf
        Point spread function of the HSI relative to the MSI grid.
    device
        Torch device name.
    seed
        For methods that draw random numbers.
    calibrate
        Whether methods may find the HSI's blur and what is left of its shift on the pair, and use that instead of
        ``psf``; False where the user knows better.
    offset_px
        How far (row, col) the HSI's pixels really lie towards larger index, HSI pixels, where that is known already;
        of use without ``calibrate``.
    guide_noise_left
        Share of the variance of the MSI's noise that is left in what :meth:`FusionMethod.fuse` gets: below 1 where it
        was denoised.
    guide_noise
        Noise of the MSI at its own resolution, shape (msi band,), as it was before parts of it were repaired: for
        where too little of it is left to measure it on; None: not known.
    guide_error
        Variance that a correction of the MSI left beyond its noise, shape (msi band,); None: nothing was corrected.
    combined_noise
        Noise of an MSI that was combined with other dates of it, shape (msi band,), which differs from place to place
        and would be measured too low in the quietest ones; None: to be measured.
    threads
        How many may work side by side while something is learned from the scene; no result depends on it.
    """

    ratio: int
    centre_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64]
    srf: NDArray[np.float64] | None
    psf: Psf
    device: str = "cpu"
    seed: int = 0
    calibrate: bool = True
    offset_px: Offset = NO_OFFSET
    guide_noise_left: float = 1.0
    guide_noise: NDArray[np.float64] | None = None
    guide_error: NDArray[np.float64] | None = None
    combined_noise: NDArray[np.float64] | None = None
    threads: int = 1

    @property
    def threads_here(self) -> int:
        """Threads for what runs on :attr:`device`: a GPU does one thing after the other."""
        return self.threads if self.device == "cpu" else 1


@dataclass(frozen=True)
class LowResolutionStrip:
    """A full-width strip of the scene on the HSI grid.

    Attributes
    ----------
    hsi
        Reflectance, shape (band, row, col), free of NaN.
    msi
        MSI degraded to the HSI grid with the HSI's PSF, shape (msi band, row, col), free of NaN.
    valid
        Pixels that carry real measurements in every band of both, shape (row, col).
    fine, fine_above
        The MSI at its own resolution, NaN where it must not be used, with this many HSI rows above the strip's first
        one (and some below its last, as far as there are any); None where it is not at hand: methods then take blur
        and alignment of the HSI as they are given and know nothing of the MSI's noise.
    repaired
        Further pixels that carry real measurements of both, but whose MSI was repaired: they tell what the HSI is like,
        not how both relate, shape (row, col); None where there are none.
    """

    hsi: NDArray[np.float32]
    msi: NDArray[np.float32]
    valid: NDArray[np.bool_]
    fine: NDArray[np.float32] | None = None
    fine_above: int = 0
    repaired: NDArray[np.bool_] | None = None
    _told: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def of_hsi(self) -> NDArray[np.bool_]:
        """Pixels that tell what the HSI alone is like, shape (row, col)."""
        return self.valid if self.repaired is None else self.valid | self.repaired

    def below(self, ratio: int) -> NDArray[np.float32] | None:
        """Return the fine MSI on the strip's own rows, a view of ``fine``; None where it is not at hand."""
        if self.fine is None:
            return None
        return self.fine[:, self.fine_above * ratio : (self.fine_above + self.hsi.shape[1]) * ratio]

    def once(self, key: Hashable, work: Callable[[], Told]) -> Told:
        """Return what ``work`` makes of the strip; of one ``key`` it is made once, and must not be changed."""
        if key not in self._told:
            self._told[key] = work()
        told: Told = self._told[key]
        return told


class FusionMethod(ABC):
    """A fusion method. Make one per scene: ``fit`` stores what it learned in the object."""

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """Self-description."""

    @abstractmethod
    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn scene-wide parameters.

        Parameters
        ----------
        context
            Facts about the pair.
        strips
            The scene at low resolution, strip by strip; may be iterated more than once.
        """

    @abstractmethod
    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse one batch of tiles.

        Parameters
        ----------
        hsi
            Shape (tile, band, row, col), reflectance, free of NaN.
        msi
            Shape (tile, msi band, row * ratio, col * ratio), reflectance, free of NaN.

        Returns
        -------
        torch.Tensor
            Shape (tile, band, row * ratio, col * ratio), float32.
        """

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """What :meth:`fit` found out about the scene and about the method on it; empty before."""
        return MethodDiagnostics()

    def at_quality(self, quality: Quality) -> FusionMethod | None:  # noqa: ARG002 - most methods know no such choice
        """Return the method with the refinement of its own that a quality stands for, not yet fitted.

        None, as here: the maximum a posteriori step is put behind the method.
        """
        return None

    def guide_filter(self) -> GuideFilter | None:
        """Return what a fitted method does to the guide before anything else, or None, as here.

        It can then be done once for a scene instead of once more in the context of every tile.
        """
        return None

    def change_aware(self) -> FusionMethod | None:
        """Return a fitted method for a guide that is followed by what is known of its change, or None, as here.

        These are :data:`CHANGE_IMAGES` bands more, 0 where nothing changed: how far the guide was not left as it is,
        and how much of that kept detail of its own.
        """
        return None

    def components_of(
        self, mean: torch.Tensor, forward: torch.Tensor, back: torch.Tensor  # noqa: ARG002 - most methods know none
    ) -> ComponentFusion | None:  # fmt: skip
        """Return the fusion of a fitted method in a signal subspace, or None, as here, where it knows no such one.

        A step behind the method then changes components before they become bands.

        Parameters
        ----------
        mean, forward, back
            Of the subspace, shapes (band,), (component, band) and (band, component).
        """
        return None

    def fuse_window(self, hsi: torch.Tensor, msi: torch.Tensor, window: Window) -> torch.Tensor:
        """Fuse one batch of tiles, of which only some rows and columns are wanted; the rest is context.

        Methods that can save work at the fine resolution override this.

        Parameters
        ----------
        hsi, msi
            As for :meth:`fuse`.
        window
            Rows and columns of the HSI's tiles, with start and stop.

        Returns
        -------
        torch.Tensor
            Shape (tile, band, window row * ratio, window col * ratio), float32.
        """
        ratio = msi.shape[-1] // hsi.shape[-1]
        rows, cols = (slice(s.start * ratio, s.stop * ratio) for s in window)
        return self.fuse(hsi, msi)[..., rows, cols]


class ComponentFusion(Protocol):
    """A fusion whose result is the mean spectrum, components of a signal subspace, and what lies outside of it."""

    def components(
        self, hsi: torch.Tensor, msi: torch.Tensor, window: Window
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Fuse a part of tiles as :meth:`FusionMethod.fuse_window` does, up to the bands.

        Returns
        -------
        components : torch.Tensor
            Shape (tile, component + 1, row * ratio, col * ratio); the last one is 1 everywhere: it carries the mean.
        outside : torch.Tensor or None
            What lies outside of the subspace, for :meth:`bands`.
        """
        ...

    def bands(self, components: torch.Tensor, outside: torch.Tensor | None, window: Window) -> torch.Tensor:
        """Return the bands (tile, band, row * ratio, col * ratio) of a part of the tiles from its components."""
        ...


@dataclass(frozen=True)
class GuideFilter:
    """What a method does to the guide before anything else.

    Attributes
    ----------
    apply
        Takes and returns (tile, msi band, row, col), free of NaN; images cut at HSI pixels give the same away from the
        cut. With the pixels that are wanted, shape (row, col), what it returns elsewhere means nothing.
    halo_px
        HSI pixels of context that it looks at.
    method
        The fitted method for a guide that went through it: its own context is smaller by so much.
    keeps_raw
        Whether that method wants the guide as it came too: its bands then follow those of the filtered one.
    """

    apply: Callable[[torch.Tensor, NDArray[np.bool_] | None], torch.Tensor]
    halo_px: int
    method: FusionMethod
    keeps_raw: bool = False


class NetworkMethod(FusionMethod):
    """A fusion method whose network was trained before: what adapting it to a scene needs to know.

    Attributes
    ----------
    architecture
        Name under which :class:`hsfuse.fusion.registry.NetworkEntry` declares the network.
    """

    architecture: str

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network itself."""

    @property
    def n_bands(self) -> int | None:
        """HSI bands that it takes; None: any."""
        centre = self.spec.centre_nm
        return None if centre is None else len(centre)
