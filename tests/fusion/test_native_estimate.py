"""What a network takes from a base estimate: the C kernel against the plain operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hsfuse.degrade import Window
from hsfuse.degrade.windows import whole
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn, make_network
from hsfuse.fusion.nets.native.build import native_library

Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, Window]


def network(bands: int, dtype: torch.dtype) -> Ssrfn:
    torch.manual_seed(1)
    made = make_network("ssrfn-lite", n_bands=bands, width=16, headdim=16, estimate_features=5).eval()
    for layer in (made.estimate_in, made.detail_in, made.spectral_skip):
        assert layer is not None
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made.to(dtype)


def arguments(bands: int, rows: int, cols: int, ratio: int, window: Window | None = None) -> Given:
    generator = torch.Generator().manual_seed(bands)
    base = 0.3 * torch.rand(2, bands, rows, cols, generator=generator)
    mean, std = base.mean((2, 3), keepdim=True), base.std((2, 3), keepdim=True)
    level = torch.rand(1, bands, 1, 1, generator=generator) + 0.02
    return base, mean, std, level, ratio, window or whole(base)


@pytest.mark.parametrize(
    ("bands", "rows", "cols", "ratio", "window"),
    [
        (8, 12, 15, 3, None),
        (7, 6, 100, 2, None),  # an odd number of bands, more columns than are multiplied at a time
        (12, 9, 51, 3, (slice(2, 7), slice(5, 50))),
        (3, 3, 3, 3, (slice(1, 2), slice(0, 1))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernel_equals_the_plain_way(
    isa: str, bands: int, rows: int, cols: int, ratio: int, window: Window | None, dtype: torch.dtype,
    plain: Callable[..., Any],
) -> None:  # fmt: skip
    made, given = network(bands, dtype), arguments(bands, rows, cols, ratio, window)
    size = 2e-5 if dtype == torch.float32 else 2e-2
    with torch.inference_mode():
        slow, fast = plain(made._read_estimate, *given), made._read_estimate(*given)
        exact = plain(made.float()._read_estimate, *given)
    for one, other, right in zip(fast, slow, exact, strict=True):
        assert one is not None
        assert other is not None
        assert right is not None
        assert one.shape == other.shape
        torch.testing.assert_close(one.float(), right.float(), rtol=size, atol=size * max(float(right.std()), 1.0))
    assert fast[0].dtype == dtype


def test_several_threads_share_the_rows(isa: str) -> None:
    made, given = network(8, torch.float32), arguments(8, 30, 33, 3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results.append(made._read_estimate(*given))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_bands_are_passed_over_once(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel serves, no tensor as large as the base estimate is made besides what skips the network."""
    made, given = network(16, torch.float32), arguments(16, 30, 33, 3, (slice(9, 12), slice(9, 12)))
    assert native_library() is not None
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        made._read_estimate(*given)
    taken = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert taken < given[0].numel() * 4


def test_gradients_flow_the_plain_way() -> None:
    made, given = network(8, torch.float32), arguments(8, 12, 15, 3)
    read = made._read_estimate(*given)
    assert read.skip is not None
    read.skip.sum().backward()
    assert made.spectral_skip is not None
    assert made.spectral_skip.weight.grad is not None
