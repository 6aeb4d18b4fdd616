"""The middle of a Mamba-2 block as an autograd function over the C kernels: trains on a CPU several times faster."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hsfuse.fusion.nets.native.abi import GRADIENT_FIELDS, Block, Gradients, fits, run_parallel, worker_count
from hsfuse.fusion.nets.native.build import native_library
from hsfuse.native import NativeLibrary

if TYPE_CHECKING:
    from hsfuse.fusion.nets.interfaces import Mamba2Block as Mamba2


def usable(block: Mamba2, u: Tensor) -> bool:
    """Whether the kernels can run the middle of ``block`` on ``u``: float32 on a CPU, sizes that fill vectors."""
    return (
        u.device.type == "cpu"
        and u.dtype == torch.float32
        and block.dt_bias.dtype == torch.float32
        and fits(block.d_model, block.headdim, block.d_state, block.d_conv)
        and native_library() is not None
    )


def core(block: Mamba2, projected: Tensor) -> Tensor:
    """Convolution, scan, gate and normalisation.

    Parameters
    ----------
    block
        Holds the parameters.
    projected
        Output of ``in_proj``, shape (sequence, token, z + x + B + C + dt).

    Returns
    -------
    torch.Tensor
        Input of ``out_proj``, shape (sequence, token, inner), of the type of ``projected``.
    """
    bias = block.conv1d.bias
    result: Tensor = _Core.apply(
        projected.float().contiguous(),
        block.conv1d.weight.squeeze(1).t().contiguous(),
        projected.new_zeros(block.conv1d.out_channels, dtype=torch.float32) if bias is None else bias,
        block.dt_bias,
        -block.A_log.exp(),
        block.D,
        block.norm.weight,
        (block.d_model, block.d_inner, block.d_state, block.headdim, block.norm.eps),
    )
    return result.to(projected.dtype)


def _library() -> NativeLibrary:
    native = native_library()
    if native is None:
        raise RuntimeError("the compiled kernels vanished between two calls")
    return native


def _describe(sizes: tuple[int, int, int, int, float], parameters: tuple[Tensor, ...]) -> Block:
    """Fill the C structure; the caller keeps the tensors alive."""
    width, inner, state, headdim, eps = sizes
    block = Block(width, inner, state, headdim, 0, 0, 0.0, eps)
    for name, tensor in zip(GRADIENT_FIELDS, parameters, strict=True):
        setattr(block, name, tensor.data_ptr())
    return block


class _Core(torch.autograd.Function):
    """Order of the parameters: that of ``GRADIENT_FIELDS``."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, *arguments: Any) -> Tensor:
        parameters = tuple(p.detach().contiguous() for p in arguments[:-1])
        sizes = arguments[-1]
        ctx.save_for_backward(projected, *parameters)
        ctx.sizes = sizes
        count, length, columns = projected.shape
        out = projected.new_empty(count, length, sizes[1])
        block, run = _describe(sizes, parameters), _library().library.hsf_core_forward

        def part(_: int, first: int, last: int) -> int:
            return int(
                run(
                    ctypes.byref(block), ctypes.c_int64(last - first), ctypes.c_int64(length),
                    _at(projected, first * length * columns), _at(out, first * length * sizes[1]),
                )
            )  # fmt: skip

        run_parallel(part, count)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, *parameters = ctx.saved_tensors
        sizes = ctx.sizes
        count, length, columns = projected.shape
        gradient = gradient.contiguous()
        back = torch.empty_like(projected)
        block, run = _describe(sizes, tuple(parameters)), _library().library.hsf_core_backward
        # One set of sums per thread; adding them in order keeps the result independent of scheduling.
        sums = [[torch.zeros_like(p) for p in parameters] for _ in range(worker_count(count))]

        def part(worker: int, first: int, last: int) -> int:
            totals = Gradients(*(t.data_ptr() for t in sums[worker]))
            return int(
                run(
                    ctypes.byref(block), ctypes.c_int64(last - first), ctypes.c_int64(length),
                    _at(projected, first * length * columns), _at(gradient, first * length * sizes[1]),
                    _at(back, first * length * columns), ctypes.byref(totals),
                )
            )  # fmt: skip

        run_parallel(part, count)
        totals = [torch.stack(parts).sum(0) if len(parts) > 1 else parts[0] for parts in zip(*sums, strict=True)]
        return (back, *totals, None)


def _at(tensor: Tensor, offset: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr() + offset * tensor.element_size())
