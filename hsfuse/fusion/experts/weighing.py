"""What a gate sees of the experts' outputs, and what its weights make of them, by compiled kernels.

:class:`hsfuse.fusion.methods.ssrfn.network.Gate` has the plain twins, for training and for other devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hsfuse.native import experts as native

if TYPE_CHECKING:
    from torch import Tensor


def seen_features(
    state: Tensor, outputs: Tensor, present: Tensor, compared: Sequence[int], constants: int
) -> Tensor | None:
    """Norms of the experts' outputs and products with some of them; None where the kernels do not serve.

    Parameters
    ----------
    state, outputs
        Shapes (1, component, row, col) and (1, expert, component, row, col).
    present
        Components that count, true or false, shape (component,).
    compared
        Experts with which products are made.
    constants
        Images that the caller fills, behind what is made here.

    Returns
    -------
    Tensor
        Shape (1, feature + constants, row, col).
    """
    if not _serve(state, outputs) or native.KERNELS.library() is None:
        return None
    numbers = present.nonzero().flatten().tolist()
    if not numbers:
        return None
    made = (1 + len(compared)) * (1 + outputs.shape[1])
    out = state.new_empty((1, made + constants, *state.shape[2:]))
    arrays = (state[0].flatten(1).numpy(), outputs[0].flatten(2).numpy())
    done = native.gate_features(*arrays, numbers, compared, out[0, :made].flatten(1).numpy())
    return out if done else None


def weighed_outputs(found: Tensor, outputs: Tensor, slope: Tensor, most: float) -> Tensor | None:
    """Sum of ``2 tanh((a + b slope) / 2) most tanh(output / most)`` over the experts; None where there is no kernel.

    Parameters
    ----------
    found
        a of every expert, then b, shape (1, 2 * expert, row, col).
    outputs
        Shape (1, expert, component, row, col).
    slope
        Shape (component,).
    most
        Outputs beyond are compressed.

    Returns
    -------
    Tensor
        Shape (1, component, row, col).
    """
    if not _serve(found, outputs, slope):
        return None
    out = found.new_empty((1, *outputs.shape[2:]))
    done = native.gate_applied(
        found[0].flatten(1).numpy(), outputs[0].flatten(2).numpy(), slope.contiguous().numpy(), most,
        out[0].flatten(1).numpy(),
    )  # fmt: skip
    return out if done else None


def _serve(*tensors: Tensor) -> bool:
    import torch

    first = tensors[0]
    return first.shape[0] == 1 and all(
        x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous() and not x.requires_grad
        for x in tensors
    )  # fmt: skip
