"""What a training step keeps for the gradient: counted, not measured on a card.

    python benchmarks/training_memory.py [--settings width=128] [--card-gb 24]

A network runs forward once on two small patches under bf16 autocast; each tensor that autograd keeps is counted once
(``torch.autograd.graph.saved_tensors_hooks``, by storage). What grows with the patch is the share of a pixel. Mamba
blocks keep what this package's GPU kernels keep (``hsfuse/fusion/nets/gpu``): the projection, the convolution's output,
the scan's. To that come float32 weights, gradients, two moments of the optimiser, the average and the best weights.

``SPARE`` of the card is left for what lives for one operation only, and for cuDNN and cuBLAS.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.ssm import Mamba2
from hsfuse.workflows.training.start import parse_network_settings

SIDES = (12, 24)
RATIO, BANDS, MSI_BANDS, PATCH_PX = 3, 100, 4, 48
STATE_COPIES = 6
"""Of the weights in float32: weights, gradients, two moments, average, best."""
SPARE = 0.3


@dataclass(frozen=True)
class Kept:
    """Bytes kept: by each fine pixel, and by the weights whatever the patch."""

    of_a_pixel: float
    of_weights: float


class _Keep(torch.autograd.Function):
    """Stands for a kernel: keeps its inputs, returns nothing of use."""

    @staticmethod
    def forward(ctx: Any, shape: torch.Size, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return inputs[0].new_zeros(shape)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(torch.zeros_like(t) for t in ctx.saved_tensors))


def kernels_keep(block: Mamba2, u: Tensor) -> Tensor:
    """A Mamba-2 block that keeps what :func:`hsfuse.fusion.nets.gpu.block.mamba2_forward` keeps."""
    z, xbc, dt = block.in_proj(u).split([block.d_inner, block.d_inner + 2 * block.d_state, block.nheads], dim=-1)
    xbc = _Keep.apply(xbc.shape, xbc, block.conv1d.weight, block.conv1d.bias)
    x, b, c = xbc.split([block.d_inner, block.d_state, block.d_state], dim=-1)
    y = _Keep.apply(x.shape, x, dt, b, c)
    out: Tensor = block.out_proj(_Keep.apply(y.shape, y, z, block.norm.weight))
    return out


def kept_bytes(config: SsrfnConfig, side: int, *, recompute: bool) -> tuple[int, int]:
    """Bytes that autograd keeps for one patch, and the number of weights."""
    network = Ssrfn(config).train()
    network.set_recompute(recompute)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    low = side // RATIO
    inputs = torch.rand(1, BANDS, low, low), torch.rand(1, MSI_BANDS, side, side)
    with (
        patch.object(Mamba2, "forward", kernels_keep), torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):  # fmt: skip
        network(*inputs).abs().mean()
    return sum(storage.nbytes() for storage in storages.values()), network.n_parameters


def kept(config: SsrfnConfig, *, recompute: bool) -> Kept:
    """Take apart what grows with the patch and what does not."""
    (small, _), (large, weights) = (kept_bytes(config, side, recompute=recompute) for side in SIDES)
    slope = (large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2)
    return Kept(slope, small - slope * SIDES[0] ** 2 + 4 * STATE_COPIES * weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", help="changes to the network as published, such as width=128,dfe_blocks=3")
    parser.add_argument("--card-gb", type=float, default=24.0)
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"Counted under bf16 autocast; {SPARE:.0%} of {args.card_gb:g} GB left for what lives for one operation.\n")
    changes = parse_network_settings(args.settings, SsrfnConfig().to_dict())
    config = SsrfnConfig.from_dict({**changes, "n_bands": BANDS, "n_msi": MSI_BANDS})
    print(f"| method | `--recompute` | kB a pixel | weights and optimiser, GB | 8 patches of {PATCH_PX}, GB | "
          f"patches of {PATCH_PX} at a time |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for recompute in (False, True):
        found = kept(config, recompute=recompute)
        patch_bytes = found.of_a_pixel * PATCH_PX**2
        room = int(((1 - SPARE) * args.card_gb * 1e9 - found.of_weights) / patch_bytes)
        step = (found.of_weights + 8 * patch_bytes) / 1e9
        print(f"| ssrfn-paper | {'yes' if recompute else 'no'} | {found.of_a_pixel / 1e3:.0f} | "
              f"{found.of_weights / 1e9:.2f} | {step:.1f} | {room} |")  # fmt: skip


if __name__ == "__main__":
    main()
