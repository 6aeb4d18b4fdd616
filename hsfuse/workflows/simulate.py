"""Simulated products for tests, demonstrations and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsfuse.errors import OutputError, UsageError
from hsfuse.progress import Progress, SilentProgress, Step, expect
from hsfuse.simulate.products import HsiSensor, SimulatedPair, simulate_pair

_STRONG_SMILE_NM = 2.5
_USUAL_M, _FINE_M = 10, 5


def steps_of_simulation(hsi_px: int, *, full_tile: bool = False) -> list[Step]:
    """What a simulation of so many HSI pixels does, and how long it should take."""
    mpx = hsi_px / 1e6
    tile_s = 40.0 if full_tile else 1.0 + 40.0 * mpx
    return [
        Step("draw the scene", "grow a landscape with relief, fields, water and houses", 1.0 + 40.0 * mpx),
        Step("write hyperspectral product", "see it as the sensor does, in the agency's file format", 0.5 + 80.0 * mpx),
        Step("write Sentinel-2 product", "see it as Sentinel-2 does, as a .SAFE folder", tile_s),
    ]  # fmt: skip


def simulate_products(
    folder: Path,
    *,
    sensor: HsiSensor = "prisma-l2d",
    rows: int = 200,
    cols: int = 200,
    seed: int = 0,
    clouds: float = 0.03,
    full_tile: bool = False,
    s2_bands: str = "10m",
    vnir_swir_shift_m: tuple[float, float] = (0.0, 0.0),
    days_apart: int | None = None,
    overflight: int = 0,
    relief_m: float = 0.0,
    strong_smile: bool = False,
    fine_truth: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Simulate a pair of products and return their paths; see :func:`hsfuse.simulate.products.simulate_pair`.

    Raises
    ------
    UsageError, OutputError
        The bands are unknown; the folder holds products already or cannot be written.
    """
    if s2_bands not in ("10m", "all"):
        raise UsageError(f"--s2-bands is 10m or all, not '{s2_bands}'.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be used: {error.strerror}.") from error
    if occupied:
        raise OutputError(f"The folder {folder} is not empty.", hint="Choose a new folder.")
    progress = progress or SilentProgress()
    expect(progress, steps_of_simulation(rows * cols, full_tile=full_tile))
    smile: dict[str, Any] = {"smile_nm": _STRONG_SMILE_NM} if strong_smile else {}
    pair: SimulatedPair = simulate_pair(
        folder, sensor=sensor, size_px=(rows, cols), seed=seed, cloud_fraction=clouds, full_tile=full_tile,
        s2_bands=s2_bands, vnir_swir_shift_m=vnir_swir_shift_m, days_apart=days_apart, overflight=overflight,
        relief_m=relief_m, scene_pixel_m=_FINE_M if fine_truth else _USUAL_M, progress=progress, **smile,
    )  # fmt: skip
    return {"hsi": str(pair.hsi), "sentinel2": str(pair.sentinel2), "truth": str(pair.truth)}
