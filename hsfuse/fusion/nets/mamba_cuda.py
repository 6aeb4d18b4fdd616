"""Adapter to the Triton kernels of ``mamba_ssm``, used on CUDA when that package is installed.

The parameters are those of :class:`hsfuse.fusion.nets.ssm.Mamba2`; only the arithmetic is handed over. Two traps
are handled here (a build of ``mamba_ssm`` without its CUDA extension cannot be imported, and is not used):

- The fused path needs ``causal_conv1d`` and a head count that is a multiple of 8; otherwise the convolution is
  PyTorch's and only the scan is fused.
- The kernels address memory with 32-bit offsets: beyond 2**31 elements a call returns wrong numbers without an
  error. Batches are split to stay below, and a single sequence that is too long goes to the plain path.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from hsfuse.log import get_logger

if TYPE_CHECKING:
    from hsfuse.fusion.nets.interfaces import Mamba2Block as Mamba2

MAX_ELEMENTS = 2**31 - 1
"""Largest number of elements of one kernel argument."""
KERNEL_CHUNK = 128
"""Chunk length handed to the kernels (a power of two)."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Kernels:
    """The functions of ``mamba_ssm`` that are used, and whether ``causal_conv1d`` came with them."""

    scan: Any
    fused: Any
    has_conv: bool
    version: str


@lru_cache(maxsize=1)
def load_kernels() -> Kernels | None:
    """Import the kernels; None when ``mamba_ssm`` or Triton is missing or broken (the log says why)."""
    found = importlib.util.find_spec("mamba_ssm")
    if found is None:
        return None
    try:
        combined = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except Exception as error:  # a broken installation raises anything from ImportError to RuntimeError
        _log.warning("mamba_ssm is installed but cannot be imported (%s); using the plain path.", error)
        return None
    return Kernels(
        scan=combined.mamba_chunk_scan_combined,
        fused=combined.mamba_split_conv1d_scan_combined,
        has_conv=getattr(combined, "causal_conv1d_fn", None) is not None,
        version=_version(),
    )


def _version() -> str:
    try:
        return importlib.metadata.version("mamba_ssm")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def widest_row(block: Mamba2) -> int:
    """Elements per token of the largest kernel argument."""
    return int(block.in_proj.out_features)


def usable(block: Mamba2, u: Tensor) -> bool:
    """Whether the kernels exist and one sequence of ``u`` stays within their 32-bit offsets."""
    return u.shape[1] * widest_row(block) <= MAX_ELEMENTS and load_kernels() is not None


def mamba2_forward(block: Mamba2, u: Tensor) -> Tensor:
    """Run a Mamba-2 block with the kernels, as many sequences at a time as their offsets allow.

    Parameters
    ----------
    block
        Holds the parameters.
    u
        Shape (sequence, token, d_model), on a CUDA device.
    """
    together = max(1, MAX_ELEMENTS // (u.shape[1] * widest_row(block)))
    if together >= u.shape[0]:
        return _forward(block, u)
    return torch.cat([_forward(block, part) for part in u.split(together)])


def _forward(block: Mamba2, u: Tensor) -> Tensor:
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("mamba_ssm vanished between two calls")
    zxbcdt = block.in_proj(u)
    decay = -block.A_log.float().exp()
    taps = block.conv1d.weight.squeeze(1)
    if kernels.has_conv and block.nheads % 8 == 0:
        out: Tensor = kernels.fused(
            zxbcdt, taps, block.conv1d.bias, block.dt_bias, decay, D=block.D, chunk_size=KERNEL_CHUNK,
            activation="silu", rmsnorm_weight=block.norm.weight, rmsnorm_eps=block.norm.eps,
            outproj_weight=block.out_proj.weight, outproj_bias=None, headdim=block.headdim, ngroups=1,
            norm_before_gate=False,
        )  # fmt: skip
        return out
    z, xbc, dt = zxbcdt.split([block.d_inner, block.d_inner + 2 * block.d_state, block.nheads], dim=-1)
    padded = F.pad(xbc.transpose(1, 2), (block.d_conv - 1, 0))
    weight, bias = block.conv1d.weight.to(xbc.dtype), block.conv1d.bias
    bias = None if bias is None else bias.to(xbc.dtype)
    xbc = F.silu(F.conv1d(padded, weight, bias, groups=weight.shape[0])).transpose(1, 2).contiguous()
    x, b, c = xbc.split([block.d_inner, block.d_state, block.d_state], dim=-1)
    y = kernels.scan(
        x.unflatten(-1, (block.nheads, block.headdim)), dt.contiguous(), decay, b.unsqueeze(2), c.unsqueeze(2),
        chunk_size=KERNEL_CHUNK, D=block.D, z=None, dt_bias=block.dt_bias, dt_softplus=True,
    )  # fmt: skip
    return block.out_proj(block.norm(y.flatten(-2), z))
