"""One run of AROSICS 1.12.1 in a process of its own: what the benchmark compares with.

This file runs under AROSICS's own Python and imports nothing of the package:

    python coregistration_arosics.py OPTIONS.json RESULT.json POSITIONS.npy

A user gets an image that AROSICS has warped. So its displacement is read from a warped image too: an image that
holds its own claimed coordinates is handed to AROSICS's DESHIFTER with the tie points that were found. Each pixel of
the result says which claimed position AROSICS put there.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def coordinate_image(transform: Any, height: int, width: int) -> np.ndarray:
    """Claimed positions of the pixel centres relative to the upper left corner, plus 100 km so that 0 is nodata."""
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([1e5 + cols * transform[1], 1e5 + rows * transform[1]], axis=-1)


def positions_of(warped: Any, origin: tuple[float, float]) -> np.ndarray:
    """Table (x, y, claimed x, claimed y) of the pixels that the warped image has data for."""
    image, gt = np.asarray(warped["arr_shifted"], dtype=np.float64), warped["updated geotransform"]
    cols, rows = np.meshgrid(np.arange(image.shape[1]) + 0.5, np.arange(image.shape[0]) + 0.5)
    # Interpolated between data and nothing, a position is nonsense; away from edges it moves with its pixel.
    smooth = np.zeros(image.shape[:2], dtype=bool)
    step_x, step_y = np.abs(np.diff(image[..., 0], axis=1) - gt[1]), np.abs(np.diff(image[..., 1], axis=0) - gt[1])
    smooth[1:-1, 1:-1] = (
        (step_x[1:-1, 1:] < 15) & (step_x[1:-1, :-1] < 15) & (step_y[1:, 1:-1] < 15) & (step_y[:-1, 1:-1] < 15)
    )
    smooth &= (image > 9e4).all(axis=-1)
    x, y = gt[0] + cols * gt[1], gt[3] + rows * gt[5]
    claimed_x, claimed_y = origin[0] + image[..., 0] - 1e5, origin[1] - (image[..., 1] - 1e5)
    return np.stack([v[smooth] for v in (x, y, claimed_x, claimed_y)], axis=-1)


def run(options: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    from arosics import COREG, COREG_LOCAL, DESHIFTER
    from geoarray import GeoArray

    common = {
        "r_b4match": options["band"], "s_b4match": options["band"], "nodata": (0, 0), "q": True, "progress": False,
    }  # fmt: skip
    if options["mask"]:
        common["mask_baddata_ref"] = options["mask"]
    target = GeoArray(options["target"])
    target.to_mem()
    origin = (target.gt[0], target.gt[3])
    coordinates = coordinate_image(target.gt, *target.shape[:2])
    result: dict[str, Any] = {}
    started = time.perf_counter()
    gt = list(target.gt)
    if options["global_window"]:
        side = options["global_window"]
        finder = COREG(options["reference"], target, ws=(side, side), max_shift=options["max_shift"], **common)
        finder.calculate_spatial_shifts()
        if finder.success:
            gt[0] += finder.x_shift_map
            gt[3] += finder.y_shift_map
        result |= {
            "shift_m": [finder.x_shift_map, finder.y_shift_map], "global_success": bool(finder.success),
            "reliability": finder.shift_reliability,
        }  # fmt: skip
    if not options["window"]:
        result["seconds"] = time.perf_counter() - started
        if not result["global_success"]:
            return result | {"error": "no match"}, None
        flat = coordinates.reshape(-1, 2)
        claimed = np.column_stack([origin[0] + flat[:, 0] - 1e5, origin[1] - (flat[:, 1] - 1e5)])
        moved_by = np.array([gt[0] - origin[0], gt[3] - origin[1]])
        return result, np.column_stack([claimed + moved_by, claimed])
    moved = GeoArray(target[:], geotransform=gt, projection=target.prj, nodata=0)
    side = options["window"]
    # After a global shift a few pixels remain to be found; without one, all of it.
    left = options["max_shift"] if gt == list(target.gt) else options["local_max_shift"]
    local = COREG_LOCAL(
        options["reference"], moved, grid_res=options["grid_res"], window_size=(side, side), max_shift=left,
        CPUs=options["cpus"], **common,
    )  # fmt: skip
    if not local.success:
        return result | {"error": "no tie points", "seconds": time.perf_counter() - started}, None
    info = local.coreg_info
    warped = DESHIFTER(moved, info, resamp_alg="cubic", q=True, progress=False).correct_shifts()
    result["points"] = len(info["GCPList"])
    result["seconds"] = time.perf_counter() - started
    del warped
    claims = GeoArray(coordinates, geotransform=gt, projection=target.prj, nodata=0)
    seen = DESHIFTER(claims, info, resamp_alg="bilinear", q=True, progress=False).correct_shifts()
    return result, positions_of(seen, origin)


def main() -> None:
    warnings.simplefilter("ignore")
    options = json.loads(Path(sys.argv[1]).read_text())
    try:
        result, positions = run(options)
    except Exception as error:  # whatever goes wrong is the result
        traceback.print_exc()
        result, positions = {"error": f"{type(error).__name__}: {error}"[:200]}, None
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    result["peak_mb"] = max(own, children) / 1024
    if positions is not None:
        np.save(sys.argv[3], positions)
    Path(sys.argv[2]).write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    main()
