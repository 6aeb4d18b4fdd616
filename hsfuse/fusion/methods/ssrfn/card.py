"""What the gate does with single pixels on a card, as operations of PyTorch that Triton kernels do.

Each has a plain twin in :mod:`hsfuse.fusion.methods.ssrfn.pixelwise`.
"""

from __future__ import annotations

import triton
from torch import Tensor

from hsfuse.fusion.gpu.operation import card_operation
from hsfuse.fusion.methods.ssrfn import card_kernels, pixelwise

_PIXELS = 64


def features(
    state: Tensor, outputs: Tensor, present: Tensor, others: Tensor, asked: Tensor, constants: Tensor
) -> Tensor:
    """Norms of the experts' outputs, products with some of them, and planes of constants.

    Parameters
    ----------
    state, outputs
        Shapes (component, row, col) and (expert, component, row, col), float32.
    present
        1 for components that count, else 0, shape (component,).
    others
        Experts that all are compared with, int32.
    asked
        1 for experts that say something, else 0, shape (expert,), int32.
    constants
        Values of the last planes.

    Returns
    -------
    torch.Tensor
        Shape (feature, row, col).
    """
    experts, components, rows, cols = outputs.shape
    made = (1 + len(others)) * (1 + experts) + len(constants)
    out = state.new_empty((made, rows, cols))
    card_kernels.features_kernel[(-(-rows * cols // _PIXELS),)](
        state.contiguous(), outputs.contiguous(), present, others, asked, constants, out, rows * cols, experts,
        components, n_others=len(others), n_constants=len(constants), wide=triton.next_power_of_2(components),
        block=_PIXELS,
    )  # fmt: skip
    return out


def weighed(found: Tensor, outputs: Tensor, slope: Tensor, asked: Tensor, most: float) -> Tensor:
    """Sum of ``2 tanh((a + b slope) / 2) most tanh(output / most)`` over the experts.

    Parameters
    ----------
    found
        a of every expert, then b, shape (2 * expert, row, col).
    outputs
        Shape (expert, component, row, col).
    slope
        Shape (component,).
    asked
        As for :func:`features`.
    most
        Outputs beyond are compressed.

    Returns
    -------
    torch.Tensor
        Shape (component, row, col).
    """
    experts, components, rows, cols = outputs.shape
    out = outputs.new_empty((components, rows, cols))
    card_kernels.weighed_kernel[(-(-rows * cols // _PIXELS),)](
        found.contiguous(), outputs.contiguous(), slope.contiguous(), asked, out, rows * cols, experts, components,
        most, wide=triton.next_power_of_2(components), block=_PIXELS,
    )  # fmt: skip
    return out


features_operation = card_operation(
    "gate_features",
    "(Tensor state, Tensor outputs, Tensor present, Tensor others, Tensor asked, Tensor constants) -> Tensor",
    features, pixelwise.features,
)  # fmt: skip
weighed_operation = card_operation(
    "gate_weighed", "(Tensor found, Tensor outputs, Tensor slope, Tensor asked, float most) -> Tensor",
    weighed, pixelwise.weighed,
)  # fmt: skip
