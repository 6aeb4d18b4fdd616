"""Predicted times follow from the machine's speed, its load and the work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsfuse.fusion.base import ModelSpec
from hsfuse.inference import speed
from hsfuse.inference.budget import Budget, Estimate, choose_plan
from hsfuse.inference.speed import MachineSpeed, free_share, measure_speed, predict_seconds, seconds_to_find_changes
from hsfuse.native.build import OVERRIDE

SPEC = ModelSpec("any", "classical", halo_px=4, preferred_tile_px=128, flop_per_pixel=2e4)
MACHINE = MachineSpeed(flops=1e11, filled=1.5e9, kernels=1.4e8, calls=4e5, workers=2)
KINDS = ("flops", "filled", "kernels", "calls")


def faster(machine: MachineSpeed, *kinds: str) -> MachineSpeed:
    return replace(machine, **{kind: 2.0 * getattr(machine, kind) for kind in kinds})


def estimate(height: int) -> Estimate:
    return choose_plan(
        height, 1240, ratio=3, n_bands=100, n_msi=4, source_bands=100, spec=SPEC, budget=Budget(4 * 10**9)
    )


def seconds(height: int, machine: MachineSpeed = MACHINE, *, judged: bool = False) -> float:
    return predict_seconds(estimate(height), SPEC, height * 1240 * 9 * 100, machine, judged=judged)


def test_time_grows_with_the_height_and_falls_with_speed_and_threads() -> None:
    one, two, four = (seconds(h) for h in (1200, 2400, 4800))
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)
    assert seconds(1200, faster(MACHINE, *KINDS)) == pytest.approx(one / 2)
    assert seconds(1200, replace(MACHINE, workers=4)) < one
    assert seconds(1200, replace(MACHINE, free=0.5)) == pytest.approx(2 * one)
    assert seconds(1200, judged=True) > one


@pytest.mark.parametrize("kind", ["filled", "kernels", "calls"])
def test_no_kind_of_work_decides_alone(kind: str) -> None:
    """A processor twice as fast in one of them is told to be faster, and not by half."""
    network = replace(SPEC, kind="network", flop_per_pixel=4e5)
    for spec in (SPEC, network):
        before, after = (
            predict_seconds(estimate(1200), spec, 1200 * 1240 * 900, machine, judged=True)
            for machine in (MACHINE, faster(MACHINE, kind))
        )
        assert 0.55 * before < after < 0.97 * before
    found = seconds_to_find_changes(10**7, MACHINE)
    assert 0.55 * found < seconds_to_find_changes(10**7, faster(MACHINE, kind)) < 0.97 * found


def test_without_kernels_matrix_products_decide() -> None:
    plain = replace(MACHINE, compiled=False)
    network = replace(SPEC, kind="network", flop_per_pixel=1e7)
    slow, fast = (
        predict_seconds(estimate(1200), network, 10**9, machine, judged=False)
        for machine in (plain, faster(plain, "flops"))
    )
    assert fast < 0.6 * slow


def test_half_precision_and_compiled_kernels_count() -> None:
    network = replace(SPEC, kind="network", flop_per_pixel=1e6)

    def fused(spec: ModelSpec, machine: MachineSpeed = MACHINE) -> float:
        return predict_seconds(estimate(1200), spec, 10**9, machine, judged=False)

    assert fused(replace(network, precision="bf16")) < fused(network) < fused(network, replace(MACHINE, compiled=False))


def test_other_programs_take_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.os, "getloadavg", lambda: (0.2, 0.0, 0.0))
    assert free_share(2) == 1.0
    monkeypatch.setattr(speed.os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert 0.0 < free_share(2) < 0.2
    assert free_share(2, busy=0.1) == 1.0  # they have ended
    # Twenty wait for two cores: each of the two workers gets a tenth.
    monkeypatch.setattr(speed.os, "getloadavg", lambda: (20.0, 0.0, 0.0))
    monkeypatch.setattr(speed, "usable_cores", lambda: 2)
    assert free_share(2, busy=1.9) == pytest.approx(2 / 22, rel=0.1)
    assert free_share(2, busy=0.7) == pytest.approx(2 / 2.7, rel=0.1)
    # The load remembers those that have ended, or were stopped, while one that goes on keeps the other core busy.
    assert free_share(2, busy=1.0, wanting=1.0) == pytest.approx(2 / 4, rel=0.1)
    assert free_share(2, busy=1.9, wanting=18.0) == pytest.approx(2 / 22, rel=0.1)


def test_finding_changes_takes_part_of_the_time() -> None:
    alone = seconds_to_find_changes(10**7, replace(MACHINE, workers=1))
    assert alone / 2 < seconds_to_find_changes(10**7, replace(MACHINE, workers=2)) < alone
    assert seconds_to_find_changes(10**7, replace(MACHINE, workers=1, free=0.5)) == pytest.approx(2 * alone)


def test_the_measurement_is_quick_and_leaves_torch_as_it_was() -> None:
    import torch

    before = torch.get_num_threads()
    found = measure_speed(2)
    assert found.flops > 1e8
    assert found.filled > 1e7
    assert found.kernels > 1e4
    assert found.calls > 1e3
    assert torch.get_num_threads() == before


def test_machine_without_kernels_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "off")
    found = measure_speed(1)
    assert not found.compiled
    assert 0.0 < found.kernels < found.flops
