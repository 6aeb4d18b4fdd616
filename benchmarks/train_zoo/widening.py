"""Widen a trained gate without a change of what it computes, after Net2WiderNet.

Every channel is there several times, side by side, and what reads it takes a part of it from each: sums stay as they
are, and so do the means that normalise. Halves are exact in bfloat16. Two operations of SSRFN's modules look at
channels in another way; they are told of the copies (``GateConfig.copies``).

References
----------
T. Chen, I. Goodfellow, J. Shlens, Net2Net: accelerating learning via knowledge transfer, ICLR 2016.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hsfuse.errors import UsageError
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate


def widened(narrow: Gate, config: GateConfig, noise: float = 0.0) -> Gate:
    """Widen a network.

    Parameters
    ----------
    narrow
        A trained network.
    config
        The shape that is wanted, but for its copies of channels; its width is a multiple of that of ``narrow``.
    noise
        Deviation of the parts that a reader takes from the copies, a share of them: equal copies would learn alike.

    Returns
    -------
    Gate
        It computes what ``narrow`` computes (without noise); a second set of weights that this lacks is untrained.

    Raises
    ------
    UsageError
        The one does not become the other by a greater width.
    """
    factor, rest = divmod(config.width, narrow.config.width)
    config = replace(config, copies=factor * narrow.config.copies, displaced_copies=1)
    if narrow.displaced is not None:
        config = replace(config, displaced_copies=factor * narrow.config.displaced_copies)
    given = narrow.config
    alike = replace(
        config, width=given.width, copies=given.copies, displaced=given.displaced,
        displaced_copies=given.displaced_copies,
    )  # fmt: skip
    if factor < 1 or rest or alike != given or given.displaced > config.displaced or config.mamba == "mamba1":
        raise UsageError(
            f"A gate of {given} cannot be widened to {config}.",
            hint="Only the width may differ, by a whole factor, and weights for displaced pairs may be added.",
        )
    wide = Gate(config)
    state = wide.state_dict()
    for name, values in narrow.state_dict().items():
        state[name] = _widened(values, state[name].shape, factor, noise)
    wide.load_state_dict(state)
    return wide.eval()


def _widened(values: Tensor, shape: torch.Size, factor: int, noise: float) -> Tensor:
    """Copy outputs (first axis) as often as there is room for, and share inputs (second axis) out among copies.

    The projection into a Mamba block and its convolution have outputs that are no channels, behind those that are:
    what the state reads and writes, and its steps. They stay.
    """
    grown = (shape[0] - values.shape[0]) // (factor - 1) if factor > 1 else 0
    values = torch.cat([values[:grown].repeat_interleave(factor, dim=0), values[grown:]])
    if values.dim() > 1 and values.shape[1] != shape[1]:
        values = values.repeat_interleave(factor, dim=1) / factor
        values = values * (1.0 + noise * torch.randn(values.shape)) if noise else values
    return values
