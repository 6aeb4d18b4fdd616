"""Judge estimates on windows that were not trained on, against what the network starts from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hsfuse.metrics.reference import psnr, sam_deg
from hsfuse.training.distributed import Team
from hsfuse.training.pairs import ReducedPair


@dataclass(frozen=True)
class ValidationScores:
    """Means over the validation windows.

    Attributes
    ----------
    psnr_db, sam_deg
        Of the network.
    base_psnr_db, base_sam_deg
        Of the base estimate; of cubic interpolation where the network needs none.
    worst_gain_db
        Gain in PSNR in the window where it is smallest.
    """

    psnr_db: float
    sam_deg: float
    base_psnr_db: float
    base_sam_deg: float
    worst_gain_db: float

    @property
    def gain_db(self) -> float:
        """What the network gains over the base estimate, dB."""
        return self.psnr_db - self.base_psnr_db

    @property
    def quality(self) -> float:
        """What training maximises: PSNR."""
        return self.psnr_db

    @property
    def text(self) -> str:
        """For the log."""
        return (
            f"PSNR {self.psnr_db:.2f} dB (base estimate {self.base_psnr_db:.2f}), SAM {self.sam_deg:.2f} deg (base "
            f"estimate {self.base_sam_deg:.2f})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "psnr_db": round(self.psnr_db, 4), "sam_deg": round(self.sam_deg, 4),
            "base_psnr_db": round(self.base_psnr_db, 4), "base_sam_deg": round(self.base_sam_deg, 4),
            "gain_db": round(self.gain_db, 4), "worst_gain_db": round(self.worst_gain_db, 4),
        }  # fmt: skip


COLUMNS = ("psnr_db", "sam_deg", "base_psnr_db", "base_sam_deg", "gain_db")


def validate(
    predict: Callable[[ReducedPair], Tensor],
    baseline: Callable[[ReducedPair], Tensor],
    pairs: Sequence[ReducedPair],
    team: Team | None = None,
) -> ValidationScores:
    """Score estimates; the windows are shared among the processes of a team.

    Parameters
    ----------
    predict
        Fuses a pair, shape (band, row, col).
    baseline
        What it is compared with, the same shape.
    pairs
        Windows.
    team
        Processes.
    """
    team = team or Team()
    table = torch.zeros(len(pairs), 4, dtype=torch.float64)
    for number in range(team.rank, len(pairs), team.size):
        pair = pairs[number]
        # no_grad, not inference_mode: what is cached here may be needed by a training step later.
        with torch.no_grad():
            fused, base = predict(pair), baseline(pair)
        if not bool(torch.isfinite(fused).all()):
            # The scores would be those of the pixels that are left.
            table[number] = math.nan
            continue
        reference, mask = pair.target.cpu().numpy(), pair.valid.bool().cpu().numpy()
        for column, estimate in enumerate((fused, base)):
            cube = estimate.float().cpu().numpy()
            table[number, 2 * column] = psnr(reference, cube, mask)
            table[number, 2 * column + 1] = sam_deg(reference, cube, mask)
    shared = table.to(pairs[0].hsi.device)
    team.add([shared])
    scores = shared.cpu().numpy()
    own_psnr, own_sam, base_psnr, base_sam = (float(v) for v in scores.mean(axis=0))
    return ValidationScores(own_psnr, own_sam, base_psnr, base_sam, float((scores[:, 0] - scores[:, 2]).min()))
