"""What the gate makes of changed ground: experts learned from ground that did not change, and the guide is mended here.

A small network of single pixels is added to what the weights are made of. It sees how far the guide was not left as it
is, and how much of its own detail was kept there. Where nothing changed it adds exactly nothing, so it is trained on
changed pairs alone, behind a gate that stays as it is (``benchmarks/train_zoo/change_head.py``).
"""

from __future__ import annotations

from torch import Tensor, nn

from hsfuse.fusion.base import CHANGE_IMAGES

_HIDDEN = 8


class ChangeHead(nn.Module):
    """The network.

    Parameters
    ----------
    outputs
        Numbers a pixel of which the experts' weights are made.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        # Without constants: what sees nothing says nothing.
        self.enter = nn.Conv2d(CHANGE_IMAGES, _HIDDEN, 1, bias=False)
        self.leave = nn.Conv2d(_HIDDEN, outputs, 1, bias=False)
        nn.init.normal_(self.enter.weight)
        nn.init.zeros_(self.leave.weight)

    def forward(self, evidence: Tensor) -> Tensor:
        """Map (n, image, row, col) to (n, output, row, col)."""
        said: Tensor = self.leave(self.enter(evidence).tanh())
        return said
