"""Widen a trained gate without a change of what it computes, after Net2WiderNet.

    python benchmarks/train_zoo/widening.py NARROW.safetensors --displaced OTHER.safetensors --output models/ssrfn

Every channel is there several times, side by side, and what reads it takes a part of it from each: sums stay as they
are, and so do the means that normalise. Halves are exact in bfloat16. Two operations of SSRFN's modules look at
channels in another way; they are told of the copies (``GateConfig.copies``).

References
----------
T. Chen, I. Goodfellow, J. Shlens, Net2Net: accelerating learning via knowledge transfer, ICLR 2016.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hsfuse.errors import UsageError
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.nets.weights import load_weights, save_weights
from hsfuse.fusion.nets.zoo import WEIGHTS_FILE

_SECOND = "displaced."


def widened(narrow: Gate, config: GateConfig, noise: float = 0.0) -> Gate:
    """Widen a network.

    Parameters
    ----------
    narrow
        A network without weights for displaced pairs: these have no copies of channels.
    config
        The shape that is wanted, but for its ``copies``; its width is a multiple of that of ``narrow``.
    noise
        Deviation of the parts that a reader takes from the copies, a share of them: equal copies would learn alike.

    Returns
    -------
    Gate
        Its first set of weights computes what ``narrow`` computes (without noise); a second set is untrained.

    Raises
    ------
    UsageError
        The one does not become the other by a greater width.
    """
    factor, rest = divmod(config.width, narrow.config.width)
    config = replace(config, copies=factor * narrow.config.copies)
    alike = replace(config, width=narrow.config.width, copies=narrow.config.copies, displaced=False)
    if factor < 1 or rest or alike != narrow.config or config.mamba == "mamba1":
        raise UsageError(
            f"A gate of {narrow.config} cannot be widened to {config}.",
            hint="Only the width may differ, by a whole factor, and the narrow one has no weights for displaced pairs.",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("narrow", type=Path, help="weights to widen")
    parser.add_argument("--width", type=int, default=GateConfig().width)
    parser.add_argument("--displaced", type=Path, help="weights whose second set becomes that of the wide network")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights")
    given = parser.parse_args()
    loaded = load_weights(given.narrow)
    narrow = loaded.network
    if not isinstance(narrow, Gate):
        raise SystemExit(f"{given.narrow} holds no gate.")
    config, training = replace(narrow.config, width=given.width), dict(loaded.header.training)
    wide = widened(narrow, config)
    training["widened"] = {"from_width": narrow.config.width, "source": loaded.sha256}
    if given.displaced is not None:
        other = load_weights(given.displaced)
        second = other.network.displaced if isinstance(other.network, Gate) else None
        if second is None or second.config != config:
            raise SystemExit(f"{given.displaced} has no second set of weights of this shape.")
        wide.config = replace(wide.config, displaced=True)
        wide.displaced = second
        training["displaced"] = {"source": other.sha256, **other.header.training}
    training["parameters"] = sum(p.numel() for p in wide.parameters())
    header = replace(loaded.header, config=wide.config.to_dict(), training=training)
    save_weights(given.output / WEIGHTS_FILE, wide, header, dtype="bf16")


if __name__ == "__main__":
    sys.exit(main())
