"""What is said about a run, as plain values: inputs, grid, bands, method, plan, expected time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from hsfuse._version import __version__
from hsfuse.config import RunConfig
from hsfuse.inference.budget import Estimate
from hsfuse.inference.card_speed import card_speed, predict_stages_with
from hsfuse.inference.speed import MachineSpeed, StageSeconds, measure_speed, seconds_to_find_changes
from hsfuse.readers.base import ProductInfo
from hsfuse.resources import Resources
from hsfuse.workflows.steps.methods import ChosenMethod
from hsfuse.workflows.steps.prepare import PreparedScene

SAMPLE_BYTES = {"int16": 2, "uint16": 2, "float32": 4}


@contextmanager
def speed_beside(threads: int) -> Iterator[Callable[[], MachineSpeed]]:
    """Measure beside the body how fast this machine is with so many threads; what is given returns it."""
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-speed") as pool:
        yield pool.submit(measure_speed, threads).result


def plan_summary(
    prepared: PreparedScene, chosen: ChosenMethod, estimate: Estimate, config: RunConfig, resources: Resources,
    speed: MachineSpeed,
) -> dict[str, Any]:  # fmt: skip
    """What is known before anything is computed; ``speed`` is that of this machine."""
    scene, plan = prepared.scene, estimate.plan
    fine = scene.fine_grid
    samples = fine.height * fine.width * len(scene.bands)
    raw = samples * SAMPLE_BYTES[config.dtype]
    stages = _guess_seconds(estimate, chosen, config, samples, resources, speed)
    changes = 0.0 if config.quality == "plain" else seconds_to_find_changes(
        fine.height * fine.width, speed, partners=len(scene.partners)
    )  # fmt: skip
    return {
        "hsfuse": __version__,
        "config": config.model_dump(mode="json"),
        "inputs": {"hsi": _describe(scene.hsi.info), "msi": _describe(scene.msi.info)},
        "method": method_summary(chosen),
        "warnings": list(prepared.warnings),
        "coregistration": prepared.coregistration.to_json(),
        "guide": guide_summary(prepared, config),
        "psf_fwhm_px": scene.psf.fwhm_px,
        "psf_estimated": prepared.psf_estimated,
        "psf_source": prepared.psf_source,
        "grid": {"crs": fine.crs.to_string(), "bounds": list(fine.bounds), "pixel_m": fine.pixel_m,
                 "height": fine.height, "width": fine.width, "ratio": scene.ratio},
        "guide_resampled": None if prepared.resampled is None else asdict(prepared.resampled),
        "bands": {"count": len(scene.bands), "of": len(scene.hsi.bands),
                  "centre_nm": [round(float(v), 2) for v in scene.hsi.bands.centre_nm[scene.bands]]},
        "plan": {
            "device": resources.device, "tiles": len(plan), "tile_px": plan.tile * scene.ratio,
            "overlap_px": plan.overlap * scene.ratio, "halo_px": plan.halo * scene.ratio, "batch": estimate.batch,
            "computed_pixels": estimate.pixels,
            "peak_memory_bytes": estimate.host_bytes, "peak_vram_bytes": estimate.vram_bytes,
            "disk_bytes": raw,
            "estimated_seconds": round(changes + sum(stages) + _adapt_seconds(chosen, config), 1),
            "stage_seconds": {
                name: round(value, 2) for name, value in ({"changes": changes} | stages._asdict()).items()
            },
        },
    }  # fmt: skip


def guide_summary(prepared: PreparedScene, config: RunConfig) -> dict[str, Any]:
    """What guides the fusion, and what was found out about it."""
    response, between = prepared.guide_response, prepared.guides_aligned
    return {
        "name": config.guide, "bands": list(prepared.scene.msi.band_names),
        "response": None if response is None else response.to_json() | {"text": response.text},
        "pan_on_s2": None if between is None else between.to_json(),
    }  # fmt: skip


def method_summary(chosen: ChosenMethod) -> dict[str, Any]:
    """What makes the cube, why, and what it found on the scene once it is fitted."""
    spec = chosen.method.spec
    return {
        "name": spec.name, "reason": chosen.reason, "reference": spec.reference, "precision": spec.precision,
        "weights_sha256": spec.weights_sha256, **chosen.diagnostics.to_json(),
    }  # fmt: skip


def _guess_seconds(
    estimate: Estimate, chosen: ChosenMethod, config: RunConfig, samples: int, resources: Resources,
    speed: MachineSpeed,
) -> StageSeconds:  # fmt: skip
    """Seconds from the plan to the finished product: by what this machine is measured to do right now."""
    card = card_speed(resources.device) if resources.on_gpu else None
    return predict_stages_with(card, estimate, chosen.method.spec, samples, speed, judged=config.report)


def _adapt_seconds(chosen: ChosenMethod, config: RunConfig) -> float:
    return 60.0 * config.adapt if config.adapt is not None and chosen.network else 0.0


def _describe(info: ProductInfo) -> dict[str, Any]:
    return {
        "name": info.name, "sensor": info.sensor, "level": info.level, "path": str(info.path),
        "start": info.start.isoformat() if info.start else None,
        "sun_zenith_deg": info.sun_zenith_deg, "sun_azimuth_deg": info.sun_azimuth_deg,
        "view_zenith_deg": info.view_zenith_deg,
        **({"smile": info.attributes["smile"]} if "smile" in info.attributes else {}),
    }  # fmt: skip
