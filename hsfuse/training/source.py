"""Draws training patches and validation windows.

What batch belongs to step *k* is a function of the seed and of *k* alone. That makes an interrupted training resume
exactly, and lets several processes share one batch without talking about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Slice2D
from hsfuse.training.augment import RANGES, Disturbance
from hsfuse.training.pairs import ENOUGH_VALID, Batch, ReducedPair
from hsfuse.training.reducer import Reducer
from hsfuse.training.scenes import MIN_PATCH_PX, SceneEntry, split_regions

_TRIES = 8
_REUSE = 3.0
"""How often the area of the average window is used before new ones are made: each costs about as much as a step."""
_STREAM_WINDOW, _STREAM_PATCH, _STREAM_RATIO, _STREAM_VALIDATION, _STREAM_ORDER = 1, 2, 3, 4, 5


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
    rounds
        There are so many rounds of the pool and no more, each step draws from another one, and all stay in memory: for
        tasks that spend minutes on each window and keep what they found; None: always new ones.
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
    rounds: int | None = None
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
    prepare
        What the task adds to each of them; may raise OverlapError where a pair is of no use.

    Raises
    ------
    InputError
        No scene is large enough.
    """

    def __init__(
        self,
        entries: Sequence[SceneEntry],
        sampling: Sampling,
        reducer: Reducer,
        prepare: Callable[[ReducedPair], ReducedPair] | None = None,
    ) -> None:
        self._sampling, self._reducer, self._prepare = sampling, reducer, prepare
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
    def round_steps(self) -> int:
        """Steps with the same windows in the pool."""
        return self._round_steps

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
        round_number = self._round(step)
        side = self.patch_px(self._ratio(round_number))
        patches = []
        for item in range(rank, self._sampling.batch, size):
            # A batch smaller than the pool goes through it, step by step: windows that no step drew from would be lost.
            slot = (step * self._sampling.batch + item) % self._sampling.pool
            pair = self.window(round_number, slot)
            patches.append(pair.patch(side, self._rng(_STREAM_PATCH, step, item)))
        return Batch.stack(patches)

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
                # A base estimate learns from as large a window as in training; a part of it is enough to judge by.
                pairs.append(pair.middle(2 * self._patch))
        if not pairs:
            raise OverlapError(
                "The validation strips hold too few valid pixels.",
                hint="Use larger scenes, or some with fewer clouds and gaps.",
            )
        return pairs

    def close(self) -> None:
        """End the helper thread; call it when training is over."""
        if self._helper is not None:
            self._helper.shutdown(cancel_futures=True)

    def _round(self, step: int) -> int:
        """Round that a step draws from; where windows come again, all rounds in turn, in another order each time."""
        rounds = self._sampling.rounds
        if rounds is None:
            return step // self._round_steps
        # The same few windows for many steps on end would pull the weights to and fro.
        return int(self._rng(_STREAM_ORDER, step // rounds).permutation(rounds)[step % rounds])

    def _ratio(self, round_number: int) -> int:
        ratios = self._sampling.ratios
        return ratios[int(self._rng(_STREAM_RATIO, round_number).integers(len(ratios)))]

    def window(self, round_number: int, slot: int) -> ReducedPair:
        """Return a window of a round of the pool."""
        key = (round_number, slot)
        if key not in self._pool:
            for old in [k for k in self._pool if k[0] != round_number and self._sampling.rounds is None]:
                del self._pool[old]
            future = self._ahead.pop(key, None)
            self._pool[key] = future.result() if future is not None else self._make(*key)
            if self._helper is not None and self._sampling.rounds is None:
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
            "The training strips hold too few valid pixels.",
            hint="Use larger scenes, or some with fewer clouds and gaps.",
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
            if share >= ENOUGH_VALID:
                break
        disturbance = Disturbance.draw(RANGES[scene.ranges], rng)
        if not self._sampling.augment:
            disturbance = Disturbance(turns=disturbance.turns, flip=disturbance.flip, seed=disturbance.seed)
        pair = self._reducer.make(scene, best or region, ratio, disturbance.upright() if upright else disturbance)
        try:
            with torch.no_grad():
                return pair if self._prepare is None else self._prepare(pair)
        except OverlapError:
            return None

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._sampling.seed, *stream])


def _chances(size: NDArray[np.float64], drawn: NDArray[np.bool_], drawn_share: float) -> NDArray[np.float64]:
    """Chance of every scene: by size, with a fixed total for the drawn ones where both kinds are there."""
    if drawn.all() or not drawn.any():
        return np.asarray(size / size.sum())
    chance = np.where(drawn, drawn_share * size / size[drawn].sum(), (1.0 - drawn_share) * size / size[~drawn].sum())
    return np.asarray(chance / chance.sum())
