"""Operations of PyTorch that kernels do on a card: they are recorded and counted like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def card_operation(
    name: str, schema: str, kernels: Callable[..., Any], twin: Callable[..., Any]
) -> Callable[..., Any]:  # fmt: skip
    """Register an operation that makes new tensors.

    Parameters
    ----------
    name, schema
        As PyTorch calls it, without the package's prefix, and its arguments and results.
    kernels
        Works on tensors of a card.
    twin
        Works on those of the processor: where a card is only pretended.
    """
    operation = torch.library.custom_op(
        f"hsfuse::{name}", kernels, mutates_args=(), device_types="cuda", schema=schema
    )  # fmt: skip
    operation.register_kernel("cpu", twin)
    return operation
