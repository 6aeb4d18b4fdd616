"""The kernel of regressions on random Fourier features for a card, by Triton's interpreter, against plain PyTorch."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="needs triton (no wheel for this platform)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU, tests/gpu runs the kernels themselves", allow_module_level=True)

from hsfuse.fusion.experts import regressions
from hsfuse.fusion.gpu import fourier


@pytest.mark.parametrize(("regressors", "features", "targets"), [(4, 48, 10), (11, 33, 20), (1, 5, 3)])
def test_the_kernel_predicts_what_plain_pytorch_does(regressors: int, features: int, targets: int) -> None:
    generator = torch.Generator().manual_seed(features)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    matrices = (
        draw(features, regressors), 6.3 * torch.rand(features, generator=generator), draw(targets, features),
        draw(targets, regressors), draw(targets),
    )  # fmt: skip
    # Some rows of an image with more, into a part of the bands.
    x, whole = 2.0 * draw(regressors, 12, 13)[:, 3:11].flatten(1), draw(targets + 5, 8 * 13)
    expected = torch.empty(targets, 8 * 13)
    regressions.predict(x, *matrices, expected)
    before = whole.clone()
    fourier.predict(x, *matrices, whole[2 : 2 + targets])
    assert float((whole[2 : 2 + targets] - expected).abs().max() / expected.abs().max()) < 1e-5
    assert torch.equal(whole[:2], before[:2])
    assert torch.equal(whole[2 + targets :], before[2 + targets :])
    with torch.inference_mode():
        fourier.operation(x, *matrices, whole[2 : 2 + targets])
    assert torch.equal(whole[2 : 2 + targets], expected)
