"""The kernels of non-local Bayes for a card, under Triton's interpreter, against plain PyTorch."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="needs triton (no wheel for this platform)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU, tests/gpu runs the kernels themselves", allow_module_level=True)

from hsfuse.fusion.gpu import choice, patches
from hsfuse.fusion.map import nonlocal_bayes, patch_search

torch.set_num_threads(1)
REACH, STEP, SIMILAR = 3, 3, 12


def _image(bands: int, rows: int, cols: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(bands)
    slope = torch.linspace(0.0, 40.0, cols)[None, None] * torch.ones(bands, rows, 1)
    return slope + torch.randn(bands, rows, cols, generator=generator)


@pytest.mark.parametrize(("bands", "rows", "cols"), [(4, 14, 17), (1, 9, 7)])
def test_nearest_patches_are_those_of_plain_pytorch(bands: int, rows: int, cols: int) -> None:
    image = _image(bands, rows, cols)
    found = patches.nearest_patches(image, SIMILAR, REACH, STEP)
    expected = patch_search.nearest_patches(image, SIMILAR, REACH, STEP)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)


def test_equal_distances_take_the_first_places() -> None:
    found = patches.nearest_patches(torch.ones(2, 12, 12), 5, 1, 3)
    middle = found.reshape(4, 4, 5)[1, 1]
    assert middle.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("bands", [4, 10])
def test_groups_are_filtered_as_in_plain_pytorch(bands: int, second: bool) -> None:
    image = _image(bands, 9, 13)
    basic = image - 0.7 * (image - _image(bands, 9, 13).mean(dim=0)) if second else None
    places = patch_search.nearest_patches(image, SIMILAR, REACH, STEP)
    found = patches.filtered_groups(image, basic, places, REACH, STEP, 1.5)
    expected = nonlocal_bayes.filtered_groups(image, basic, places, REACH, STEP, 1.5)
    assert torch.equal(found[1], expected[1])
    assert float((found[0] - expected[0]).abs().max() / expected[0].abs().max()) < 1e-5


def test_a_group_that_cannot_be_factored_is_not_a_number() -> None:
    """As in plain PyTorch: what it touches stays as it was."""
    image = _image(4, 5, 5)
    places = patch_search.nearest_patches(image, 9, 1, 3)
    for filtered in (patches.filtered_groups, nonlocal_bayes.filtered_groups):
        total, _ = filtered(image, None, places, 1, 3, -1e6)
        assert bool(total.isnan().all())


def test_kernels_that_cannot_be_compiled_leave_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCard:
        dtype, device = torch.float32, torch.device("cuda", 0)

    monkeypatch.setattr(choice, "kernels_of", lambda module: module)
    monkeypatch.setattr(choice, "_tried", {})
    calls = []

    def fails(_: object) -> None:
        calls.append(1)
        raise ValueError("no C compiler")

    for _ in range(2):
        assert choice.kernels_on_card("m", OnCard(), (4,), fails) is None  # type: ignore[arg-type]
    assert len(calls) == 1
    assert choice.kernels_on_card("m", OnCard(), (5,), lambda module: module) == "m"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no C compiler"):
        choice.kernels_on_card("m", OnCard(), (5,), fails)  # type: ignore[arg-type]
