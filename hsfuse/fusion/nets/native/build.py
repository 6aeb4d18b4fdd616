"""The compiled kernels of the networks, see :mod:`hsfuse.native.build`."""

from __future__ import annotations

from pathlib import Path

from hsfuse.native.build import Kernels, KernelSource, NativeLibrary, best_isa

_FILES = ("mamba2_train.c", "mamba2.c", "vectors.h", "product.h", "scan_half.h", "elementwise.c")
KERNELS = Kernels(KernelSource("mamba2", tuple(Path(__file__).with_name(name) for name in _FILES)), "plain PyTorch")


def native_library() -> NativeLibrary | None:
    """Return the kernels, building them on first use; None where that is not possible."""
    return KERNELS.loaded()


def half_is_fast() -> bool:
    """Whether bfloat16 is multiplied in hardware here; elsewhere float32 is at least as fast.

    By the kernels, or without them by PyTorch, which knows the same instructions.
    """
    native = native_library()
    if native is not None:
        return bool(native.library.hsf_has_half_product())
    if best_isa() != "avx512_bf16":
        return False
    import torch

    return bool(torch.backends.mkldnn.is_available())


def native_status() -> str:
    """One line for ``hsfuse doctor``: which path the Mamba blocks take on the CPU, and why."""
    return KERNELS.status()
