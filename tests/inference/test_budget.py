"""Memory plans: they obey the budget or say what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsfuse.errors import MemoryBudgetError, UsageError
from hsfuse.fusion.base import ModelSpec
from hsfuse.inference import budget
from hsfuse.inference.budget import CARD_SLOTS, Budget, Estimate, choose_plan

SPEC = ModelSpec("any", "classical", halo_px=4, preferred_tile_px=256)


def plan(budget: Budget, height: int = 1240, width: int = 1210, **options: int) -> Estimate:
    return choose_plan(
        height, width, ratio=3, n_bands=100, n_msi=4, source_bands=100, spec=SPEC, budget=budget, **options
    )


@given(st.integers(900, 20_000))
def test_the_plan_stays_inside_the_budget(megabytes: int) -> None:
    assert plan(Budget(megabytes * 10**6)).host_bytes <= megabytes * 10**6


def test_more_memory_gives_larger_tiles_up_to_the_preferred() -> None:
    sizes = [plan(Budget(gb * 10**9)).plan.tile for gb in (1, 2, 4, 64)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] <= SPEC.preferred_tile_px


def test_memory_does_not_depend_on_the_height() -> None:
    low, high = plan(Budget(2 * 10**9)), plan(Budget(2 * 10**9), height=4960)
    assert high.plan.tile == low.plan.tile
    assert high.host_bytes == pytest.approx(low.host_bytes, rel=0.03)


def test_equal_runs_have_equal_tiles_whatever_the_process_holds() -> None:
    plans = {plan(Budget(64 * 10**9, comfort=1_500_000_000, base=mega * 10**6)).plan for mega in (300, 450, 1900)}
    assert len(plans) == 1


def test_too_little_memory_says_how_much_is_needed() -> None:
    with pytest.raises(MemoryBudgetError, match=r"needs at least \d+\.\d GB") as caught:
        plan(Budget(300 * 10**6))
    assert caught.value.exit_code == 6
    assert "--max-memory" in caught.value.hint


def test_user_tile_and_overlap_are_in_fine_pixels() -> None:
    chosen = plan(Budget(64 * 10**9), tile=300, overlap=31).plan
    assert (chosen.tile, chosen.overlap) == (100, 12)
    with pytest.raises(UsageError, match="larger than --tile"):
        plan(Budget(64 * 10**9), tile=30, overlap=60)


def test_gpu_memory_bounds_the_batch() -> None:
    small, large = plan(Budget(10**11, 2 * 10**9)), plan(Budget(10**11, 70 * 10**9))
    assert 1 <= small.batch < large.batch
    assert small.vram_bytes <= 2 * 10**9


def test_memory_that_a_card_copies_from_and_to_is_counted() -> None:
    found = plan(Budget(10**11, 70 * 10**9))
    results = found.batch * (found.plan.tile * found.plan.columns * 9) * 100 * 4
    assert found.host_bytes > CARD_SLOTS * results
    assert plan(Budget(4 * 10**9, 70 * 10**9)).host_bytes <= 4 * 10**9


def test_a_card_gets_rows_of_wide_tiles_where_a_method_takes_them() -> None:
    wide = replace(
        SPEC, kind="network", halo_px=44, multiple_px=16, padded=False, preferred_tile_px=96, card_tile_px=192
    )
    narrow = replace(wide, card_tile_px=None)
    facts = {"ratio": 3, "n_bands": 100, "n_msi": 4, "source_bands": 100}
    for vram in (6 * 10**9, 68 * 10**9):
        card = Budget(10**11, vram, comfort=6 * 10**9)
        found = choose_plan(1240, 1210, spec=wide, budget=card, **facts)
        assert found.plan.columns > found.plan.tile > 96
        assert found.plan.shape[1] <= 3
        assert found.vram_bytes <= min(vram, 12 * 10**9)
        assert found.pixels < 0.7 * choose_plan(1240, 1210, spec=narrow, budget=card, **facts).pixels
    on_host = Budget(10**11, comfort=3 * 10**9)
    assert choose_plan(1240, 1210, spec=wide, budget=on_host, **facts).plan == (
        choose_plan(1240, 1210, spec=narrow, budget=on_host, **facts).plan
    )


def test_many_threads_do_not_shrink_tiles_to_nothing_but_halo() -> None:
    """The comfortable size is a wish: where it would need tiny tiles, free memory is used instead."""
    roomy = plan(Budget(64 * 10**9, comfort=64 * 10**9), workers=16)
    chosen = plan(Budget(64 * 10**9, comfort=1_500_000_000), workers=16)
    assert chosen.flop <= 1.5 * roomy.flop
    assert chosen.host_bytes < roomy.host_bytes


def test_page_cache_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("4000000000\n")
    (tmp_path / "memory.current").write_text("3900000000\n")
    (tmp_path / "memory.stat").write_text("anon 400000000\ninactive_file 3500000000\n")
    monkeypatch.setattr(budget, "_CGROUP", tmp_path)
    monkeypatch.setattr(budget.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    assert budget.available_memory() == 3_600_000_000
