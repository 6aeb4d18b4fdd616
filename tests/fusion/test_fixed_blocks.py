"""A network that looks as far as there is anything gives the same in every tiling, when it runs on fixed blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.degrade.windows import finer
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.methods.ssrfn import description
from hsfuse.fusion.methods.ssrfn.method import SsrfnMethod
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks
from hsfuse.inference.tiling import TilePlan

RATIO = 2


def far(image: torch.Tensor) -> torch.Tensor:
    """Sums over all that lies before: no context is enough."""
    return image.cumsum(-1) + image.flip(-2).cumsum(-2).flip(-2)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(5, 40), st.integers(5, 40), st.integers(3, 20), st.integers(3, 9), st.sampled_from([0, 2]),
    st.integers(0, 3),
)  # fmt: skip
def test_tiles_are_equal_to_the_whole(
    height: int, width: int, tile: int, side: int, overlap: int, context: int
) -> None:
    blocks = FixedBlocks(side, overlap, context)
    image = torch.rand(1, 2, height * RATIO, width * RATIO, generator=torch.Generator().manual_seed(side))

    def fused(part: torch.Tensor, window: tuple[slice, slice]) -> torch.Tensor:
        shape = part.shape[-2] // RATIO, part.shape[-1] // RATIO

        def run(parts: Sequence[tuple[slice, slice]], shown: tuple[slice, slice]) -> torch.Tensor:
            return torch.cat([far(part[..., *finer(near, RATIO)])[..., *finer(shown, RATIO)] for near in parts])

        return blocks.apply(run, window, shape, RATIO, together)

    together = 1
    whole = fused(image, (slice(0, height), slice(0, width)))
    for one in TilePlan(height, width, tile, 0, blocks.margin_px, side, padded=False):
        part = fused(image[..., *one.read.scaled(RATIO).slices], one.inner.slices)
        torch.testing.assert_close(part, whole[..., *one.blend.scaled(RATIO).slices], rtol=0, atol=0)
    # As on a card: several blocks a call, whose sums are in another order.
    together = 4
    torch.testing.assert_close(fused(image, (slice(0, height), slice(0, width))), whole)


def test_blended_blocks_leave_what_is_alike_as_it_is() -> None:
    image = torch.rand(1, 2, 46, 38)
    made = FixedBlocks(5, 2, 1).apply(
        lambda parts, shown: image[..., *finer(parts[0], RATIO)][..., *finer(shown, RATIO)],
        (slice(3, 20), slice(0, 19)), (23, 19), RATIO,
    )  # fmt: skip
    torch.testing.assert_close(made, image[..., 6:40, :])


@pytest.mark.parametrize("name", ["ssrfn-lite", "ssrfn"])
def test_shipped_networks_with_all_of_their_correction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision, where a last place is a visible step, on texture as strong as a town's."""
    monkeypatch.setattr(description, "BLOCK_PX", 8)
    method = SsrfnMethod.from_weights(name, precision="bf16", validate=False, denoiser_steps=0)
    ratio, rows, cols = 3, 72, 24
    rng = np.random.default_rng(0)
    shape = rows * ratio, cols * ratio
    parts = np.array([gaussian_filter(rng.standard_normal(shape), width, mode="wrap") for width in (0.8, 1.5, 4.0)])
    parts *= 0.08 / parts.std(axis=(1, 2), keepdims=True)
    mixing = gaussian_filter(rng.standard_normal((method.n_bands, 3)), (8, 0)) * 4
    fine = np.clip(0.25 + np.einsum("bk,khw->bhw", mixing, parts), 0.01, 1).astype(np.float32)
    hsi, msi = lowpass_decimate_array(fine, ratio, Psf(1.2)), fine[[5, 12, 20, 40]]
    low = lowpass_decimate_array(msi, ratio, Psf(1.2))
    strip = LowResolutionStrip(hsi, low, np.ones((rows, cols), bool), msi)
    centre = np.array(method.spec.centre_nm)
    method.fit(FusionContext(ratio, centre, np.full(centre.size, 10.0), None, Psf(1.2)), [strip])
    assert method._base is not None
    pair = torch.from_numpy(hsi)[None], torch.from_numpy(msi)[None]
    whole, base = method.fuse(*pair), method._base.fuse(*pair)
    assert float((whole - base).abs().max()) > 0.01
    spec = method.spec
    for tile in TilePlan(rows, cols, 21, 2, spec.halo_px, spec.multiple_px, padded=spec.padded):
        hsi, msi = (image[..., *tile.read.scaled(r).slices] for image, r in zip(pair, (1, ratio), strict=True))
        made = method.fuse_window(hsi, msi, tile.inner.slices)
        torch.testing.assert_close(made, whole[..., *tile.blend.scaled(ratio).slices], rtol=0, atol=1e-4)
