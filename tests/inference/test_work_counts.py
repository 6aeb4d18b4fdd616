"""Guards against slow code that count work, never seconds: source rows, buffers, operations, large arrays."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
import torch
from rasterio.crs import CRS
from torch.utils._python_dispatch import TorchDispatchMode

from hsfuse import degrade
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf, interpolation
from hsfuse.fusion.base import FusionContext, FusionMethod
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.description import backbone_flop
from hsfuse.fusion.methods.ssrfn.network import INPUTS, Gate
from hsfuse.fusion.nets.native import build
from hsfuse.fusion.nets.ssm import Mamba2
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference.engine import fuse_scene_tiles
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.tiling import TilePlan
from hsfuse.native.image import image_library
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import ArrayProduct
from hsfuse.writers import SampleEncoding

BANDS, HEIGHT, WIDTH, RATIO = 12, 96, 60, 3
VIEWS = {
    f"aten::{name}"
    for name in (
        "view", "_unsafe_view", "expand", "slice", "select", "unsqueeze", "squeeze", "transpose", "permute", "t",
        "split", "split_with_sizes", "unbind", "detach", "alias", "as_strided", "unfold",
    )
}  # fmt: skip
"""Operations that move nothing."""


class Counted(ArrayProduct):
    """An image that counts the rows that are read."""

    rows = 0

    def read(self, block: Slice2D, bands: Any = None) -> np.ndarray:
        self.rows += block.shape[0]
        return super().read(block, bands)


def make_scene() -> tuple[FusionScene, Counted, Counted]:
    rng = np.random.default_rng(0)
    fine = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, 10.0, HEIGHT * RATIO, WIDTH * RATIO)
    coarse = fine.coarsened(RATIO)
    low = Counted(
        rng.random((BANDS, HEIGHT, WIDTH), dtype=np.float32), coarse, BandTable.make(np.linspace(450, 2300, BANDS))
    )
    high = Counted(rng.random((4, *fine.shape), dtype=np.float32), fine, BandTable.make(np.linspace(490, 830, 4)))
    resampler = Resampler(coarse, coarse, DisplacementField.zero())
    return FusionScene(low, high, np.arange(BANDS), resampler, coarse, RATIO, Psf(1.2)), low, high


def fitted(scene: FusionScene, name: str = "glp") -> FusionMethod:
    method = create_method(name)
    bands = scene.hsi.bands
    context = FusionContext(RATIO, bands.centre_nm, bands.fwhm_nm, None, scene.psf)
    method.fit(context, list(scene.low_resolution_strips()))
    return method


@pytest.mark.parametrize(("overlap", "halo"), [(0, 6), (8, 6)])
def test_every_row_is_read_once_and_two_buffers_serve_all_strips(overlap: int, halo: int) -> None:
    scene, low, high = make_scene()
    method = fitted(scene)
    low.rows = high.rows = 0
    buffers = set()

    def sink(_: int, rows: np.ndarray) -> None:
        buffers.add(rows.__array_interface__["data"][0])

    plan = TilePlan(HEIGHT, WIDTH, 16, overlap, halo)
    fuse_scene_tiles(scene, method, plan, sink, workers=2, encoder=SampleEncoding.of("int16"))
    assert high.rows == HEIGHT * RATIO
    # The HSI is resampled: a strip needs the kernel's two rows on either side, which strips share.
    assert HEIGHT <= low.rows <= HEIGHT + 5 * plan.shape[0]
    # Blended strips finish fewer rows at first, so the first buffers are replaced by larger ones.
    assert len(buffers) <= (4 if overlap else 2)


class Work(TorchDispatchMode):
    """Counts operations, 3-D convolutions, and results of at least ``large`` values that have memory of their own."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.large, self.calls, self.arrays, self.volumes = large, Counter[str](), 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls[function._schema.name] += 1
        self.volumes += "convolution" in function._schema.name and args[0].dim() == 5
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known:
            self.arrays += result.numel() >= self.large
        return result


def test_glp_computes_the_fine_pixels_in_few_passes() -> None:
    if image_library() is None:
        pytest.skip("no compiled kernels")
    scene, _, _ = make_scene()
    method = fitted(scene)
    hsi, msi = torch.rand(1, BANDS, 40, 40), torch.rand(1, 4, 120, 120)
    fine = BANDS * 28 * 28 * RATIO**2
    with Work(fine) as work:
        method.fuse_window(hsi, msi, (slice(6, 34), slice(6, 34)))
    # The components on the fine grid, the cube, and what stands out of the subspace.
    assert work.arrays <= 4
    assert sum(work.calls.values()) <= 420


def test_modules_of_ssrfn_take_the_fast_form_of_every_operation() -> None:
    if build.native_library() is None:
        pytest.skip("no compiled kernels")
    backbone = Gate(GateConfig(backbone="ssrfn")).eval().backbone
    x = torch.rand(1, INPUTS, 18, 18)  # one piece for chains of cheap operations
    with torch.no_grad():
        backbone(x, 3)  # packs the kernels' weights, once
        with Work(1 << 30) as work:
            backbone(x, 3)
    assert work.calls["aten::convolution"] > 0
    assert work.volumes == 0
    # Mamba blocks run in the compiled kernels: no chunked products, no cumulated sums.
    assert work.calls["aten::cumsum"] == work.calls["aten::bmm"] == 0
    assert sum(work.calls.values()) <= 420


def test_plain_mamba_blocks_take_three_operations_per_chunk() -> None:
    """Threads take turns in starting operations: without compiled kernels their number decides."""
    block, chunk = Mamba2(64, 32, headdim=32), 32

    def operations(tokens: int) -> int:
        with torch.no_grad(), Work(1 << 30) as work:
            block(torch.rand(8, tokens, 64) / 8)
        assert work.calls["aten::bmm"] + work.calls["aten::baddbmm_"] == 4
        return sum(n for name, n in work.calls.items() if name not in VIEWS)

    few = operations(4 * chunk)
    assert few <= 70
    assert operations(12 * chunk) - few == 8 * 3


def test_plain_interpolation_is_one_product_for_each_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpolation, "compiled_planes", lambda x: None)
    with Work(1 << 30) as work:
        degrade.upsample(torch.rand(1, 5, 40, 36), RATIO)
    # Along columns a single product of matrices: a batch of them would be one call for every row.
    assert (work.calls["aten::mm"], work.calls["aten::bmm"]) == (1, 1)


@pytest.mark.parametrize(("backbone", "limit"), [("plain", 6e4), ("ssrfn", 2.3e5)])
def test_arithmetic_of_the_gates_does_not_grow_unseen(backbone: Literal["plain", "ssrfn"], limit: float) -> None:
    assert backbone_flop(GateConfig(backbone=backbone), 3) < limit
