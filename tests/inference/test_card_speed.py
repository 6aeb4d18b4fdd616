"""The speed of a card: measured once, kept by name and version, and what times on a card are predicted from."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hsfuse.fusion.base import ModelSpec
from hsfuse.inference import card_speed as module
from hsfuse.inference.budget import Budget, choose_plan
from hsfuse.inference.card_speed import MODEST, CardSpeed, card_speed, measure_card, predict_stages_with
from hsfuse.inference.speed import MachineSpeed, predict_stages

FAST = CardSpeed(5e13, 6e14, 2.5e12, 4e10, 4e-6)
SPEC = ModelSpec("any", "network", halo_px=4, preferred_tile_px=96, flop_per_pixel=4e6, bytes_per_pixel=5000)
HOST = MachineSpeed(flops=1e11, filled=1e12, kernels=1e7, calls=1e9, workers=8)
"""So fast that the card binds."""
SAMPLES = 1240 * 1240 * 9 * 100
PLAN = choose_plan(
    1240, 1240, ratio=3, n_bands=100, n_msi=4, source_bands=100, spec=SPEC, budget=Budget(10**11, 2 * 10**10)
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hsfuse" / "gpu-speed.json"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices that were measured; the card has a name."""
    found: list[str] = []
    monkeypatch.setattr(module, "measure_card", lambda device: found.append(device) or FAST)  # type: ignore[func-returns-value]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    return found


def test_what_is_measured_follows_from_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes 10 ms, so each round of work seems to take that."""
    monkeypatch.setattr(module, "_SIDE", {"cpu": 16})
    monkeypatch.setattr(module, "_COPY_VALUES", {"cpu": 1024})
    ticks = itertools.count()
    found = measure_card("cpu", seconds=0.2, clock=lambda: next(ticks) * 0.01)
    assert (found.flops, found.half_flops) == pytest.approx((2 * 16**3 * 100,) * 2)
    assert found.stream == pytest.approx(8 * 1024 * 100)
    assert found.link == pytest.approx(1024 * 100)
    assert found.launch == pytest.approx(0.01 / 100)
    assert next(ticks) * 0.01 == pytest.approx(5 * 0.2 / 5, abs=0.06), "no longer than it may"


def test_a_card_is_measured_once(cache: Path, measured: list[str]) -> None:
    assert card_speed("cuda:0") == card_speed("cuda:0") == FAST
    assert measured == ["cuda:0"]
    card_speed("cuda:1")
    assert measured == ["cuda:0", "cuda:1"], "another name"
    assert [path.name for path in cache.parent.iterdir()] == ["gpu-speed.json"]
    assert f"Card 0, PyTorch {torch.__version__}" in json.loads(cache.read_text())["cards"]


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"schema": 99, "cards": {}}', '{"schema": 1, "cards": []}', '{"schema": 1, "cards": {"KEY": 3}}',
     '{"schema": 1, "cards": {"KEY": {"flops": NaN, "half_flops": 1, "stream": 1, "link": 1, "launch": 1}}}',
     '{"schema": 1, "cards": {"KEY": {"flops": 1, "half_flops": 1, "stream": 1, "link": 1, "launch": 0}}}',
     '{"schema": 1, "cards": {"KEY": {"flops": 1}}}', "\xff"],
)  # fmt: skip
def test_a_damaged_file_is_ignored_and_made_anew(damage: str, cache: Path, measured: list[str]) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(damage.replace("KEY", f"Card 0, PyTorch {torch.__version__}").encode("latin-1"))
    assert card_speed("cuda:0") == card_speed("cuda:0") == FAST
    assert measured == ["cuda:0"]


def test_a_file_that_cannot_be_written_is_no_error(cache: Path, measured: list[str]) -> None:
    cache.parent.parent.joinpath("hsfuse").write_text("in the way")
    assert card_speed("cuda:0") == card_speed("cuda:0") == FAST
    assert measured == ["cuda:0", "cuda:0"]


def test_a_card_that_is_full_is_taken_for_a_modest_one(
    cache: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> CardSpeed:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module, "measure_card", full)
    assert card_speed("cuda:0") == MODEST
    assert not cache.exists()


def seconds(card: CardSpeed | None, spec: ModelSpec = SPEC, host: MachineSpeed = HOST) -> float:
    return predict_stages_with(card, PLAN, spec, SAMPLES, host, judged=False).fuse


def test_times_follow_from_the_card_and_from_the_host() -> None:
    assert seconds(None) == predict_stages(PLAN, SPEC, SAMPLES, HOST, judged=False).fuse
    half = replace(SPEC, precision="bf16")
    assert seconds(FAST, half) < seconds(FAST) < seconds(MODEST) < seconds(None)
    for name in ("flops", "stream"):
        assert seconds(replace(FAST, **{name: getattr(FAST, name) / 4})) > seconds(FAST)
    assert seconds(replace(FAST, launch=1e-3)) > seconds(FAST)
    # A slow link, or a slow host, binds: the card then waits.
    assert seconds(replace(FAST, link=1e6)) == pytest.approx(4 * SAMPLES / 1e6)
    slow = replace(HOST, filled=4e6)
    assert seconds(FAST, host=slow) == seconds(replace(FAST, flops=1e15), host=slow)


def test_learning_on_a_card_takes_its_time() -> None:
    def learn(spec: ModelSpec) -> float:
        return predict_stages_with(FAST, PLAN, spec, SAMPLES, HOST, judged=False).learn

    assert learn(replace(SPEC, learn_flop=1e15)) > learn(SPEC)
