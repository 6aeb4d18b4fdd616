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
    state: Tensor, outputs: Tensor, present: Tensor, compared: Sequence[int], asked: Sequence[int], out: Tensor
) -> bool:
    """Norms of the experts' outputs and products with some of them; False where the kernels do not serve.

    Parameters
    ----------
    state, outputs
        Shapes (1, component, row, col) and (1, expert, component, row, col), or some rows of such.
    present
        Components that count, true or false, shape (component,).
    compared
        Experts with which products are made.
    asked
        Experts that are looked at, ascending; of the others nothing is written.
    out
        Shape (row, col, feature), float32 or bfloat16, features side by side; there may be more than are made here.
    """
    import torch

    if not _serve(state, outputs) or native.KERNELS.library() is None:
        return False
    numbers = present.nonzero().flatten().tolist()
    if not numbers:
        return False
    features = out.view(torch.int16) if out.dtype == torch.bfloat16 else out
    return native.gate_features(state[0].numpy(), outputs[0].numpy(), numbers, compared, asked, features.numpy())


def weighed_outputs(
    found: Tensor, outputs: Tensor, slope: Tensor, most: float, asked: Sequence[int]
) -> Tensor | None:  # fmt: skip
    """Sum of ``2 tanh((a + b slope) / 2) most tanh(output / most)`` over the experts; None where there is no kernel.

    Parameters
    ----------
    found
        a of every expert, then b, shape (1, 2 * expert, row, col).
    outputs
        Shape (1, expert, component, row, col), or some rows of such.
    slope
        Shape (component,).
    most
        Outputs beyond are compressed.
    asked
        Experts that are weighed.

    Returns
    -------
    Tensor
        Shape (1, component, row, col).
    """
    if not _serve(found, outputs, slope) or not found.is_contiguous():
        return None
    out = found.new_empty((1, *outputs.shape[2:]))
    done = native.gate_applied(
        found[0].numpy(), outputs[0].numpy(), slope.contiguous().numpy(), most, asked, out[0].numpy()
    )  # fmt: skip
    return out if done else None


def _serve(*tensors: Tensor) -> bool:
    import torch

    return tensors[0].shape[0] == 1 and all(
        x.device.type == "cpu" and x.dtype == torch.float32 and not x.requires_grad and _whole_rows(x) for x in tensors
    )


def _whole_rows(x: Tensor) -> bool:
    """Whether images lie one behind the other, of each all rows or some that follow each other."""
    steps, count = x.stride(), x.dim()
    if count < 3:
        return x.is_contiguous()
    beyond = all(steps[axis] == x.shape[axis + 1] * steps[axis + 1] for axis in range(1, count - 3))
    return steps[-1] == 1 and steps[-2] == x.shape[-1] and beyond
