"""A run that is gone on with on another device: allowed, and said to differ in the last bits."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hsfuse.config import RunConfig
from hsfuse.inference.tiling import TilePlan
from hsfuse.workflows.steps.product import COMPUTED_ON, _tiles_to_follow

PLAN = TilePlan(100, 100, 50)


def follow(kept: dict[str, Any], now: str, rows_done: int = 30) -> TilePlan:
    writer = SimpleNamespace(plan_to_keep=dict(kept), rows_done=rows_done)
    return _tiles_to_follow(cast(Any, writer), cast(Any, SimpleNamespace(plan=PLAN)), now)


def test_the_device_is_no_part_of_what_a_product_is() -> None:
    assert RunConfig(device="cuda:0").identity() == RunConfig(device="cpu").identity()
    assert RunConfig(precision="bf16").identity() != RunConfig(precision="fp32").identity()


def test_rows_of_another_device_are_kept_and_the_log_says_that_they_differ(caplog: pytest.LogCaptureFixture) -> None:
    smaller = TilePlan(100, 100, 25).to_dict()
    with caplog.at_level(logging.WARNING):
        plan = follow(smaller | {COMPUTED_ON: "NVIDIA H100 in bf16"}, "cpu in fp32")
    assert plan == TilePlan(100, 100, 25)
    assert "The first 30 rows were computed on NVIDIA H100 in bf16, those that follow are on cpu in fp32" in caplog.text


@pytest.mark.parametrize("kept", [PLAN.to_dict() | {COMPUTED_ON: "cpu in fp32"}, PLAN.to_dict()])
def test_nothing_is_said_where_all_is_as_before(kept: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Journals of earlier versions do not say where they were computed."""
    with caplog.at_level(logging.INFO):
        assert follow(kept, "cpu in fp32") == PLAN
        assert follow(kept | {COMPUTED_ON: "another"}, "cpu in fp32", rows_done=0) == PLAN
    assert not caplog.records
