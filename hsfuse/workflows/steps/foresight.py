"""The steps of a run before it begins: what each does, in the words of the field, and how long it should take.

First from the settings alone, then with the sizes of the open products, last with the plan of the tiles: the estimate
stands from the first second and gets better. Seconds are those of two cores (see docs/benchmarks.md); the display
corrects them by the pace of the steps that are done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import psutil

from hsfuse.config import RunConfig
from hsfuse.fusion.registry import is_network
from hsfuse.process import is_own
from hsfuse.progress import Step

_USUAL_PX = 40_000
"""HSI pixels of a scene of which nothing is known yet."""
_PER_MPX_COREGISTER, _PER_MPX_REPAIR, _PER_MPX_FINISH = 5.5, 6.0, 0.7
"""Seconds for a million HSI pixels, HSI pixels and fine pixels."""
_PER_MPX_FUSE = {"network": 4.0, "classical": 0.8}
_LEARN = {"network": 4.0, "classical": 0.8}
_TURNS_ALONE, _FEWEST_TURNS = 0.85, 0.2
"""Share of the time in which a command that starts alone computes, and the least that is believed."""
_REFINE = {"plain": 0.0, "fast": 2.0, "standard": 4.0, "best": 8.0}
"""Seconds of learning that ``--quality`` adds."""

CHANGES, LEARN, FUSE, WRITE, JUDGE = "find changes", "learn from the scene", "fuse", "write", "judge"
TEXTS = {
    "open": "read the headers, grids and masks of both products",
    "co-register": "match both images in windows, fit the displacement, choose the bands",
    "compare SWIR with VNIR": "measure how far the SWIR bands lie beside the VNIR bands",
    "estimate blur": "find the width of the point spread function (PSF) on the pair",
    CHANGES: "find what changed between both images, and repair the guide there",
    "train": "adapt the network to the scene at reduced resolution",
    LEARN: "fit the method on the pair: blur, noise, gains",
    FUSE: "inject the detail of the finer image into every band, tile by tile",
    WRITE: "compress the cube",
    JUDGE: "write the cube, score it and draw the report",
}


def foreseen(
    config: RunConfig,
    *,
    network: bool | None = None,
    hsi_px: int = _USUAL_PX,
    ratio: int = 3,
    planned: Mapping[str, float] | None = None,
    dry_run: bool | Literal["full"] = False,
) -> list[Step]:
    """Return the steps of a run in their order.

    Parameters
    ----------
    config
        Settings.
    network
        Whether a network fuses; None: by the name of the method and by what ``auto`` tries.
    hsi_px, ratio
        Pixels of the HSI, and how many fine ones lie along the side of each.
    planned
        Seconds for learning, fusing and finishing (keys ``changes``, ``learn``,
        ``fuse``, ``finish``), where tiles are planned.
    dry_run
        As of the run.
    """
    if network is None:
        tried = config.quality in ("plain", "best") or config.adapt is not None
        network = (config.method == "auto" and tried) or is_network(config.method)
    kind = "network" if network else "classical"
    mpx, fine_mpx = hsi_px / 1e6, hsi_px * ratio**2 / 1e6
    seconds = {"open": 0.7}
    if dry_run is not True:
        if config.coregister != "off":
            seconds["co-register"] = 1.8 + _PER_MPX_COREGISTER * mpx
        if config.correct_swir:
            seconds["compare SWIR with VNIR"] = 0.6
        if config.psf_fwhm == "auto":
            seconds["estimate blur"] = 1.2
    if not dry_run:
        known = planned or {
            "learn": _LEARN[kind], "fuse": 0.3 + _PER_MPX_FUSE[kind] * fine_mpx,
            "finish": (2.5 if config.report else 0.3) + _PER_MPX_FINISH * fine_mpx,
        }  # fmt: skip
        if config.quality != "plain":
            seconds[CHANGES] = known.get("changes", 3.0 + _PER_MPX_REPAIR * mpx)
        if config.adapt is not None and network:
            seconds["train"] = 60.0 * config.adapt
        seconds[LEARN] = known["learn"] + _REFINE[config.quality]
        seconds[FUSE] = known["fuse"]
        # What is judged before it is compressed is written beside the judging.
        beside = config.report and config.compress != "lerc"
        if not beside:
            seconds[WRITE] = known["finish"]
        if config.report:
            seconds[JUDGE] = known["finish"] if beside else 2.5
    # What is planned was measured on the machine as it is; the rest counts on two cores with nothing else to do.
    measured = {CHANGES, LEARN, FUSE, WRITE, JUDGE} if planned else set()
    turns = _share_of_turns()
    return [
        Step(name, TEXTS[name], value if name in measured or name == "train" else value / turns,
             timed=name == "train", measured=name in measured, telling=name != CHANGES)
        for name, value in seconds.items()
    ]  # fmt: skip


def _share_of_turns() -> float:
    """Share of its time that this process was given a processor: what other programs leave."""
    process = psutil.Process()
    busy = sum(process.cpu_times()[:2]) / max(time.time() - process.create_time(), 0.1)
    return min(max(busy / _TURNS_ALONE, _FEWEST_TURNS), 1.0) if is_own() else 1.0
