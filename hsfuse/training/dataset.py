"""Training data: scenes, separate strips for training and validation, reduced pairs, patches.

What batch belongs to step *k* is a function of the seed and of *k* alone. That makes an interrupted training resume
exactly, and lets several processes share one batch without talking about it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.degrade import Psf, apply_srf, lowpass_decimate, upsample
from hsfuse.errors import InputError, OverlapError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.classical.statistics import gather, noise_std
from hsfuse.fusion.create import create_method
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.methods.ssrfn.network import Scene, Ssrfn
from hsfuse.fusion.nets.trust import error_without_noise, lost_noise
from hsfuse.grid import Slice2D
from hsfuse.training.augment import RANGES, Disturbance
from hsfuse.training.losses import Yardstick

MIN_PATCH_PX = 12
"""Smallest side of training patches and validation strips, pixels of the reference."""
_TRIES = 8
_REUSE = 3.0
"""How often the area of the average window is used before new ones are made: each costs about as much as a step."""
_ENOUGH_VALID = 0.6
_MISJUDGED = 0.3
_SEGMENT_PATCHES = 8
_MAX_SEGMENTS = 4
_STREAM_WINDOW, _STREAM_PATCH, _STREAM_RATIO, _STREAM_VALIDATION = 1, 2, 3, 4


@dataclass(frozen=True)
class TrainingScene:
    """A scene whose fine truth is known.

    Attributes
    ----------
    name
        For messages and the training record.
    reference
        What the network shall return, shape (band, row, col), reflectance, free of NaN.
    valid
        Pixels that count, shape (row, col).
    msi
        Multispectral image on the same grid, shape (msi band, row, col), free of NaN; None: simulated from the
        reference by ``srf``.
    srf
        Alternatives for the spectral response, each of shape (msi band, band); the first is the nominal one.
    psf
        PSF of the hyperspectral sensor that the reduced HSI gets.
    ranges
        Name of the disturbances that it gets, ``full`` or ``measured``.
    """

    name: str
    reference: NDArray[np.float32]
    valid: NDArray[np.bool_]
    msi: NDArray[np.float32] | None
    srf: tuple[NDArray[np.float64], ...]
    psf: Psf
    ranges: Literal["full", "measured"] = "full"


@dataclass(frozen=True)
class SceneEntry:
    """A scene that is loaded when it is needed.

    Attributes
    ----------
    name, shape
        Known without loading; shape is (rows, cols) of the reference.
    load
        Returns the scene; must return equal scenes every time.
    role
        ``both``: split into strips; else the whole scene is for one purpose.
    drawn
        Made up rather than measured.
    """

    name: str
    shape: tuple[int, int]
    load: Callable[[], TrainingScene]
    role: Literal["both", "training", "validation"] = "both"
    drawn: bool = False

    @classmethod
    def of(cls, scene: TrainingScene, role: Literal["both", "training", "validation"] = "both") -> SceneEntry:
        """Wrap a scene that is in memory."""
        return cls(scene.name, (scene.valid.shape[0], scene.valid.shape[1]), lambda: scene, role)


@dataclass(frozen=True)
class Regions:
    """Where a scene is used for what; blocks of the reference's grid."""

    training: tuple[Slice2D, ...]
    validation: tuple[Slice2D, ...]


def split_regions(shape: tuple[int, int], *, share: float, gap_px: int, patch_px: int) -> Regions:
    """Split a scene along its longer side into strips for training and validation, with a gap between them.

    Large scenes are cut into several segments, each with its own validation strip, so that validation sees more
    than one corner.

    Parameters
    ----------
    shape
        (rows, cols) of the reference.
    share
        Share of the scene that validates, 0 to below 0.6.
    gap_px
        Width of the strip between the two that is not used at all.
    patch_px
        Side of training patches; smaller scenes are used with smaller patches, down to :data:`MIN_PATCH_PX`.

    Raises
    ------
    InputError
        The scene is too small for both.
    """
    rows, cols = shape
    length, across = max(rows, cols), min(rows, cols)
    if share <= 0.0:
        return Regions((Slice2D(0, rows, 0, cols),), ())
    count = int(np.clip(length // (_SEGMENT_PATCHES * max(patch_px, MIN_PATCH_PX)), 1, _MAX_SEGMENTS))
    edges = [round(i * length / count) for i in range(count + 1)]
    training: list[Slice2D] = []
    validation: list[Slice2D] = []
    needed = 2 * MIN_PATCH_PX + gap_px
    if edges[1] < needed or across < MIN_PATCH_PX:
        raise InputError(
            f"A scene of {rows} x {cols} pixels is too small to train on: training strip, gap and validation strip "
            f"need {needed} x {MIN_PATCH_PX} pixels.",
            hint="Use a larger scene, a smaller --gap, or several scenes.",
        )
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        kept = max(round((stop - start) * share), MIN_PATCH_PX)
        # The next segment's training strip needs its distance, too.
        tail = gap_px if number < count - 1 else 0
        middle = max(stop - tail - kept - gap_px, start + MIN_PATCH_PX)
        training.append(_band(start, middle, rows, cols))
        validation.append(_band(middle + gap_px, stop - tail, rows, cols))
    return Regions(tuple(training), tuple(validation))


def _band(start: int, stop: int, rows: int, cols: int) -> Slice2D:
    return Slice2D(start, stop, 0, cols) if rows >= cols else Slice2D(0, rows, start, stop)


@dataclass(frozen=True)
class ReducedPair:
    """A window after Wald's protocol, with the draft that the network corrects; tensors on the device.

    Attributes
    ----------
    hsi, msi, draft, target
        Shapes (band, row / ratio, col / ratio), (msi band, row, col), (band, row, col), (band, row, col);
        draft is None for networks that need none.
    valid
        Pixels that count, shape (row, col), float.
    scene
        Statistics of the window, as a whole scene would have them.
    error
        How far off the draft is in the window (cubic interpolation where there is no draft).
    ratio
        Fine pixels per coarse pixel.
    name
        Scene that it came from.
    """

    hsi: Tensor
    msi: Tensor
    draft: Tensor | None
    target: Tensor
    valid: Tensor
    scene: Scene
    error: Yardstick
    ratio: int
    name: str


@dataclass(frozen=True)
class Reducer:
    """Makes reduced pairs.

    Attributes
    ----------
    centre_nm, fwhm_nm
        Bands of the references.
    draft
        Method that makes the draft; empty for none.
    device
        Torch device name.
    network
        Its denoiser, if it has one, cleans the MSI before the draft is made.
    """

    centre_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64]
    draft: str
    device: str = "cpu"
    network: Ssrfn | None = None

    @torch.no_grad()
    def make(self, scene: TrainingScene, block: Slice2D, ratio: int, disturbance: Disturbance) -> ReducedPair:
        """Degrade a window (sides are multiples of ``ratio``) and draft its fusion.

        Raises
        ------
        OverlapError
            Too few of its pixels are valid.
        """
        d = disturbance
        cut = (slice(None), *block.slices)
        target = d.orient(self._tensor(scene.reference[cut]))
        valid = d.orient(self._tensor(scene.valid[block.slices].astype(np.float32)))
        target = target * self._tensor(d.brighten(self.centre_nm))[:, None, None]
        seen, target, own_noise = self._split_noise(target, valid, scene, d.seed)
        if scene.msi is not None:
            msi = d.orient(self._tensor(scene.msi[cut])) * d.brightness
        else:
            srf = scene.srf[min(int(d.srf_draw * len(scene.srf)), len(scene.srf) - 1)]
            msi = apply_srf(seen[None], srf)[0]
        msi = d.disturb_msi(msi)
        told = Psf(scene.psf.fwhm_px * d.psf_nominal)
        blur = Psf(told.fwhm_px * d.psf_factor)
        hsi = lowpass_decimate(d.displace(seen, ratio)[None], ratio, blur)[0]
        # Averaging made a measured HSI cleaner than it was; its noise is brought back.
        lost = lost_noise(own_noise, blur, ratio)
        noise = np.random.default_rng([d.seed, 3]).standard_normal(tuple(hsi.shape), np.float32)
        hsi = hsi + self._tensor(lost)[:, None, None] * self._tensor(noise)
        hsi = d.disturb_hsi(hsi)
        return self._draft(
            replace(scene, psf=told), hsi, msi, target, valid, ratio, d.seed, own_noise * np.sqrt(2.0)
        )  # fmt: skip

    def _split_noise(
        self, target: Tensor, valid: Tensor, scene: TrainingScene, seed: int
    ) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
        """Make a measured reference two: one that the pair is made from, one as truth, whose noise is independent.

        See :mod:`hsfuse.fusion.nets.trust`; otherwise a network would learn to keep the noise.
        """
        if scene.ranges != "measured":
            return target, target, np.zeros(len(target))
        level = self._noise_of(target, valid)
        noise = np.random.default_rng([seed, 5]).standard_normal(tuple(target.shape), np.float32)
        split = self._tensor(level)[:, None, None] * self._tensor(noise)
        return target + split, target - split, level

    def _noise_of(self, target: Tensor, valid: Tensor) -> NDArray[np.float64]:
        """Noise of a measured reference, shape (band,); zeros where there are too few pixels to tell."""
        samples = target.cpu().numpy()[:, valid.bool().cpu().numpy()].astype(np.float64)
        if samples.shape[1] <= samples.shape[0] + 10:
            return np.zeros(len(samples))
        return noise_std(np.atleast_2d(np.cov(samples)), samples.shape[1])

    def _draft(
        self, scene: TrainingScene, hsi: Tensor, msi: Tensor, target: Tensor, valid: Tensor, ratio: int, seed: int,
        own_noise: NDArray[np.float64],
    ) -> ReducedPair:  # fmt: skip
        low = lowpass_decimate(msi[None], ratio, scene.psf)[0]
        rows, cols = hsi.shape[1:]
        usable = np.asarray(valid.bool().cpu().numpy().reshape(rows, ratio, cols, ratio).all(axis=(1, 3)))
        seen = torch.where(valid > 0, msi, torch.nan).cpu().numpy()
        strip = LowResolutionStrip(hsi.cpu().numpy(), low.cpu().numpy(), usable, fine=seen)
        statistics = gather([strip])
        bands = statistics.bands
        spread = np.sqrt(np.maximum(np.diag(statistics.covariance), 0.0))
        noise = noise_std(statistics.covariance[:bands, :bands], statistics.count)
        values = (statistics.hsi_mean, spread[:bands], statistics.msi_mean, spread[bands:], noise)
        facts = Scene(*(self._tensor(v)[None] for v in values))
        msi = self._denoise(msi, valid, facts)
        draft = None
        if self.draft:
            method = create_method(self.draft)
            srf = scene.srf[0] if scene.srf else None
            context = FusionContext(ratio, self.centre_nm, self.fwhm_nm, srf, scene.psf, self.device, seed)
            method.fit(context, [strip])
            draft = method.fuse(hsi[None], msi[None])[0].float()
        first = draft if draft is not None else upsample(hsi[None], ratio)[0]
        error = Yardstick.of(first[None], target[None], valid[None])
        if draft is not None:
            # In use the draft's error is told without the noise of the truth that it was measured with.
            told = error_without_noise(error.rms[0].square().double().cpu().numpy(), own_noise)
            facts = facts._replace(error=self._tensor(told * _misjudgement(bands, seed))[None])
        return ReducedPair(hsi, msi, draft, target, valid, facts, error, ratio, scene.name)

    def _denoise(self, msi: Tensor, valid: Tensor, facts: Scene) -> Tensor:
        if self.network is None or self.network.denoiser is None:
            return msi
        noise = guide_noise([GuideSample.take(msi.cpu().numpy(), valid.bool().cpu().numpy())])
        return self.network.denoise(msi[None], facts, None if noise is None else self._tensor(noise)[None])[0]

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        # A copy: scenes may be read-only maps of a file, and must never change.
        return torch.as_tensor(np.array(values, dtype=np.float32), device=self.device)


class Batch(NamedTuple):
    """Patches, stacked; see :class:`ReducedPair`. ``target`` and ``valid`` have a batch axis in front."""

    hsi: Tensor
    msi: Tensor
    draft: Tensor | None
    target: Tensor
    valid: Tensor
    scene: Scene
    error: Yardstick

    def __len__(self) -> int:
        return int(self.hsi.shape[0])

    def part(self, start: int, stop: int) -> Batch:
        """Return some of the patches."""
        cut = slice(start, stop)
        return Batch(
            self.hsi[cut], self.msi[cut], None if self.draft is None else self.draft[cut], self.target[cut],
            self.valid[cut], Scene(*(v[cut] for v in self.scene)), Yardstick(*(v[cut] for v in self.error)),
        )  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn.

    Attributes
    ----------
    ratios
        Ratios to train for; each round of the pool uses one.
    patch_px, window_px
        Sides of patches and of the windows that they are cut from, pixels of the reference.
    batch
        Patches in a batch, over all processes.
    pool
        Windows that are degraded at a time.
    validation_share, gap_px
        See :func:`split_regions`.
    validation_windows
        Windows that validate.
    drawn_share
        Share of the training windows that come from generated scenes where there are measured ones too: a few small
        measured scenes would drown in hundreds of generated ones.
    augment
        False leaves out every disturbance (rotations stay).
    seed
        Of everything random.
    prefetch
        Make the next windows in a thread while the present ones are in use: pays on a GPU. The windows are the same.
    """

    ratios: tuple[int, ...] = (3,)
    patch_px: int = 48
    window_px: int = 192
    batch: int = 8
    pool: int = 8
    validation_share: float = 0.2
    gap_px: int = 18
    validation_windows: int = 6
    drawn_share: float = 0.5
    augment: bool = True
    seed: int = 0
    prefetch: bool = False


class PatchSource:
    """Draws training batches and validation windows from scenes.

    Parameters
    ----------
    entries
        Scenes.
    sampling
        How patches are drawn.
    reducer
        Makes the reduced pairs.

    Raises
    ------
    InputError
        No scene is large enough.
    """

    def __init__(self, entries: Sequence[SceneEntry], sampling: Sampling, reducer: Reducer) -> None:
        self._sampling, self._reducer = sampling, reducer
        self._training: list[tuple[SceneEntry, Slice2D]] = []
        self._validation: list[tuple[SceneEntry, Slice2D]] = []
        for entry in entries:
            share = sampling.validation_share if entry.role == "both" else 0.0
            regions = split_regions(entry.shape, share=share, gap_px=sampling.gap_px, patch_px=sampling.patch_px)
            if entry.role == "validation":
                self._validation += [(entry, block) for block in regions.training]
            else:
                self._training += [(entry, block) for block in regions.training]
                self._validation += [(entry, block) for block in regions.validation]
        if not self._training or not self._validation:
            raise InputError(
                "There is no scene to train on, or none to validate with.", hint="Give at least one scene for both."
            )
        side = min(min(block.shape) for _, block in self._training)
        self._patch = min(sampling.patch_px, side)
        if min(self.patch_px(ratio) for ratio in sampling.ratios) < MIN_PATCH_PX:
            raise InputError(
                f"The scenes leave patches of {self._patch} pixels only; at least {MIN_PATCH_PX} are needed.",
                hint="Use larger scenes.",
            )
        areas = np.array([block.shape[0] * block.shape[1] for _, block in self._training], np.float64)
        drawn = np.array([entry.drawn for entry, _ in self._training])
        self._weights = _chances(np.sqrt(areas), drawn, sampling.drawn_share)
        self._area = float(areas.sum())
        self._pool: dict[tuple[int, int], ReducedPair] = {}
        self._ahead: dict[tuple[int, int], Future[ReducedPair]] = {}
        self._helper = ThreadPoolExecutor(1, "windows") if sampling.prefetch else None
        sides = np.minimum([block.shape for _, block in self._training], sampling.window_px)
        patches = max(1.0, _REUSE * float((self._weights * sides.prod(axis=1)).sum()) / self._patch**2)
        self._round_steps = max(1, round(sampling.pool * patches / sampling.batch))

    @property
    def epoch_steps(self) -> int:
        """Steps in which the patches cover the area of all training strips once."""
        return max(1, round(self._area / self._patch**2 / self._sampling.batch))

    @property
    def batch_size(self) -> int:
        """Patches in a batch, over all processes."""
        return self._sampling.batch

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes, in order."""
        return tuple(dict.fromkeys(entry.name for entry, _ in [*self._training, *self._validation]))

    def patch_px(self, ratio: int) -> int:
        """Side of the patches: a multiple of the ratio that fits into every training strip."""
        return self._patch // ratio * ratio

    def batch(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """Return the patches of a step that process ``rank`` of ``size`` works on."""
        round_number = step // self._round_steps
        side = self.patch_px(self._ratio(round_number))
        patches = []
        for item in range(rank, self._sampling.batch, size):
            pair = self._window(round_number, item % self._sampling.pool)
            patches.append(_cut(pair, side, self._rng(_STREAM_PATCH, step, item)))
        return _stack(patches)

    def validation(self) -> list[ReducedPair]:
        """Make the validation windows: spread over all validation strips, always the same.

        Raises
        ------
        OverlapError
            None of them holds enough valid pixels.
        """
        count = self._sampling.validation_windows
        order = np.linspace(0, len(self._validation), count, endpoint=False).astype(int)
        pairs = []
        for number, index in enumerate(order):
            ratio = self._sampling.ratios[number % len(self._sampling.ratios)]
            rng = self._rng(_STREAM_VALIDATION, number)
            pair = self._draw(self._validation, int(index), ratio, rng, self._sampling.window_px, upright=True)
            if pair is not None:
                # The draft learns from as large a window as in training; a part of it is enough to judge by.
                pairs.append(_middle(pair, 2 * self._patch))
        if not pairs:
            raise OverlapError(
                "The validation strips hold too few valid pixels.", hint="Use scenes with fewer clouds and gaps."
            )
        return pairs

    def close(self) -> None:
        """End the helper thread; call it when training is over."""
        if self._helper is not None:
            self._helper.shutdown(cancel_futures=True)

    def _ratio(self, round_number: int) -> int:
        ratios = self._sampling.ratios
        return ratios[int(self._rng(_STREAM_RATIO, round_number).integers(len(ratios)))]

    def _window(self, round_number: int, slot: int) -> ReducedPair:
        key = (round_number, slot)
        if key not in self._pool:
            for old in [k for k in self._pool if k[0] != round_number]:
                del self._pool[old]
            future = self._ahead.pop(key, None)
            self._pool[key] = future.result() if future is not None else self._make(*key)
            if self._helper is not None:
                following = (round_number + 1, slot)
                self._ahead = {k: f for k, f in self._ahead.items() if k[0] in (round_number, round_number + 1)}
                self._ahead.setdefault(following, self._helper.submit(self._make, *following))
        return self._pool[key]

    def _make(self, round_number: int, slot: int) -> ReducedPair:
        rng, ratio = self._rng(_STREAM_WINDOW, round_number, slot), self._ratio(round_number)
        for _ in range(_TRIES):
            index = int(rng.choice(len(self._training), p=self._weights))
            pair = self._draw(self._training, index, ratio, rng, self._sampling.window_px)
            if pair is not None:
                return pair
        raise OverlapError(
            "The training strips hold too few valid pixels.", hint="Use scenes with fewer clouds and gaps."
        )

    def _draw(
        self, choice: list[tuple[SceneEntry, Slice2D]], index: int, ratio: int, rng: np.random.Generator,
        side: int, *, upright: bool = False,
    ) -> ReducedPair | None:  # fmt: skip
        """Degrade a random window of a region; None when it holds too few valid pixels."""
        entry, region = choice[index]
        scene = entry.load()
        rows, cols = (min(max(side, ratio * 8), extent) // ratio * ratio for extent in region.shape)
        best, best_share = None, -1.0
        for _ in range(_TRIES):
            row = region.row0 + int(rng.integers(region.shape[0] - rows + 1))
            col = region.col0 + int(rng.integers(region.shape[1] - cols + 1))
            block = Slice2D(row, row + rows, col, col + cols)
            share = float(scene.valid[block.slices].mean())
            if share > best_share:
                best, best_share = block, share
            if share >= _ENOUGH_VALID:
                break
        disturbance = Disturbance.draw(RANGES[scene.ranges], rng)
        if not self._sampling.augment:
            disturbance = Disturbance(turns=disturbance.turns, flip=disturbance.flip, seed=disturbance.seed)
        try:
            return self._reducer.make(scene, best or region, ratio, disturbance.upright() if upright else disturbance)
        except OverlapError:
            return None

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._sampling.seed, *stream])


def _misjudgement(bands: int, seed: int) -> NDArray[np.float64]:
    """Factor by which the draft's expected error is wrong: in use it is known from lower resolution only."""
    rng = np.random.default_rng([seed, 4])
    common, slope = rng.normal(0.0, (_MISJUDGED, 0.5 * _MISJUDGED))
    own = rng.normal(0.0, 0.3 * _MISJUDGED, bands)
    return np.asarray(np.exp(common + slope * np.linspace(-1.0, 1.0, bands) + own))


def _chances(size: NDArray[np.float64], drawn: NDArray[np.bool_], drawn_share: float) -> NDArray[np.float64]:
    """Chance of every scene: by size, with a fixed total for the drawn ones where both kinds are there."""
    if drawn.all() or not drawn.any():
        return np.asarray(size / size.sum())
    chance = np.where(drawn, drawn_share * size / size[drawn].sum(), (1.0 - drawn_share) * size / size[~drawn].sum())
    return np.asarray(chance / chance.sum())


def _middle(pair: ReducedPair, side: int) -> ReducedPair:
    """Cut the middle of a window, at most ``side`` pixels wide."""
    ratio = pair.ratio
    low, high = [], []
    for size in pair.hsi.shape[1:]:
        kept = min(size, max(side // ratio, 1))
        start = (size - kept) // 2
        low.append(slice(start, start + kept))
        high.append(slice(start * ratio, (start + kept) * ratio))
    middle = replace(
        pair, hsi=pair.hsi[:, low[0], low[1]], msi=pair.msi[:, high[0], high[1]],
        draft=None if pair.draft is None else pair.draft[:, high[0], high[1]],
        target=pair.target[:, high[0], high[1]], valid=pair.valid[high[0], high[1]],
    )  # fmt: skip
    return middle if bool(middle.valid.any()) else pair


def _cut(pair: ReducedPair, side: int, rng: np.random.Generator) -> Batch:
    """Cut a patch; of a few tries, the first that is mostly valid."""
    ratio = pair.ratio
    coarse = side // ratio
    best, best_share = (0, 0), -1.0
    for _ in range(_TRIES):
        row = int(rng.integers(pair.hsi.shape[1] - coarse + 1))
        col = int(rng.integers(pair.hsi.shape[2] - coarse + 1))
        share = float(pair.valid[row * ratio : row * ratio + side, col * ratio : col * ratio + side].mean())
        if share > best_share:
            best, best_share = (row, col), share
        if share >= _ENOUGH_VALID:
            break
    row, col = best
    low = (slice(None), slice(row, row + coarse), slice(col, col + coarse))
    rows, cols = slice(row * ratio, row * ratio + side), slice(col * ratio, col * ratio + side)
    return Batch(
        pair.hsi[low][None], pair.msi[:, rows, cols][None],
        None if pair.draft is None else pair.draft[:, rows, cols][None],
        pair.target[:, rows, cols][None], pair.valid[rows, cols][None], pair.scene, pair.error,
    )  # fmt: skip


def _stack(patches: list[Batch]) -> Batch:
    drafts = [p.draft for p in patches if p.draft is not None]
    return Batch(
        torch.cat([p.hsi for p in patches]), torch.cat([p.msi for p in patches]),
        torch.cat(drafts) if drafts else None,
        torch.cat([p.target for p in patches]), torch.cat([p.valid for p in patches]),
        Scene(*(torch.cat(parts) for parts in zip(*(p.scene for p in patches), strict=True))),
        Yardstick(*(torch.cat(parts) for parts in zip(*(p.error for p in patches), strict=True))),
    )  # fmt: skip
