"""Judge a network on windows that it was not trained on, against the draft that it corrects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hsfuse.degrade import upsample
from hsfuse.fusion.methods.ssrfn.network import Ssrfn
from hsfuse.metrics.reference import psnr, sam_deg
from hsfuse.training.dataset import ReducedPair
from hsfuse.training.distributed import Team


@dataclass(frozen=True)
class ValidationScores:
    """Means over the validation windows.

    Attributes
    ----------
    psnr_db, sam_deg
        Of the network.
    draft_psnr_db, draft_sam_deg
        Of the draft; of cubic interpolation where the network needs no draft.
    worst_gain_db
        Gain in PSNR in the window where it is smallest.
    """

    psnr_db: float
    sam_deg: float
    draft_psnr_db: float
    draft_sam_deg: float
    worst_gain_db: float

    @property
    def gain_db(self) -> float:
        """What the network gains over the draft, dB."""
        return self.psnr_db - self.draft_psnr_db

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "psnr_db": round(self.psnr_db, 4), "sam_deg": round(self.sam_deg, 4),
            "draft_psnr_db": round(self.draft_psnr_db, 4), "draft_sam_deg": round(self.draft_sam_deg, 4),
            "gain_db": round(self.gain_db, 4), "worst_gain_db": round(self.worst_gain_db, 4),
        }  # fmt: skip


def validate(network: Ssrfn, pairs: Sequence[ReducedPair], team: Team | None = None) -> ValidationScores:
    """Score a network; the windows are shared among the processes of a team."""
    team = team or Team()
    table = torch.zeros(len(pairs), 4, dtype=torch.float64)
    training = network.training
    network.eval()
    for number in range(team.rank, len(pairs), team.size):
        pair = pairs[number]
        # no_grad, not inference_mode: what is cached here may be needed by a training step later.
        with torch.no_grad():
            draft = None if pair.draft is None else pair.draft[None]
            base, change = network.parts(pair.hsi[None], pair.msi[None], draft, pair.scene)
            fused = (base + change)[0]
            yardstick = pair.draft if pair.draft is not None else upsample(pair.hsi[None], pair.ratio)[0]
        if not bool(torch.isfinite(fused).all()):
            # The scores would be those of the pixels that are left.
            table[number] = math.nan
            continue
        reference, mask = pair.target.cpu().numpy(), pair.valid.bool().cpu().numpy()
        for column, estimate in enumerate((fused, yardstick)):
            cube = estimate.float().cpu().numpy()
            table[number, 2 * column] = psnr(reference, cube, mask)
            table[number, 2 * column + 1] = sam_deg(reference, cube, mask)
    network.train(training)
    device = pairs[0].hsi.device
    shared = table.to(device)
    team.add([shared])
    scores = shared.cpu().numpy()
    network_psnr, network_sam, draft_psnr, draft_sam = (float(v) for v in scores.mean(axis=0))
    worst = float((scores[:, 0] - scores[:, 2]).min())
    return ValidationScores(network_psnr, network_sam, draft_psnr, draft_sam, worst)
