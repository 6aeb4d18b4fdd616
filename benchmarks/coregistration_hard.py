"""Hard pairs: how wrong the co-registration is, what it says about that, and whether it accepts.

    python benchmarks/coregistration_hard.py
    python benchmarks/coregistration_hard.py --seed 1000 --scenes "relief 2 km" ice
    python benchmarks/coregistration_hard.py --dem

Every pair (see coregistration_hard_scenes.py) is written as two GeoTIFF files and given to ``hsfuse coregister`` in a
process of its own; the found field is compared with the true one over all pixels whose true position lies in the
reference. ``--seed`` is added to the pairs' seeds: other numbers are other landscapes of the same kinds. ``--dem``
also gives the program the height of the ground where there is relief. Results are kept in the work folder, so an
interrupted run goes on (``--again`` forgets them); ``--label`` keeps those of different versions of the package apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

sys.path.insert(0, str(Path(__file__).parent))
from coregistration import Json, run_ours, write_raster
from coregistration_hard_scenes import HARD_PAIRS, HardPair, HardSpec, make_hard_pair, true_displacement
from coregistration_scenes import CENTRE_XY, REFERENCE_PIXEL_M, TARGET_EPSG, TARGET_PIXEL_M

WRONG_M, SMALL_M = 15.0, 0.75
"""An accepted field may be more wrong than the first only if it says so; below the second all is well."""


def write_pair(folder: Path, spec: HardSpec) -> None:
    """Draw a pair and write its files, once."""
    about = json.dumps(asdict(spec))
    if (folder / "spec.json").is_file() and (folder / "spec.json").read_text() == about:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    pair = make_hard_pair(spec)
    write_raster(folder / "target.tif", pair.target, pair.target_origin, TARGET_PIXEL_M, TARGET_EPSG)
    write_raster(folder / "reference.tif", pair.reference, pair.reference_origin, REFERENCE_PIXEL_M, TARGET_EPSG)
    if pair.height.any():
        _write_height(folder / "dem.tif", pair)
    (folder / "spec.json").write_text(about)


def _write_height(path: Path, pair: HardPair) -> None:
    """Write the height of the ground at 30 m."""
    step = round(TARGET_PIXEL_M / REFERENCE_PIXEL_M)
    height = pair.height[step // 2 :: step, step // 2 :: step]
    with rasterio.open(
        path, "w", driver="GTiff", dtype="float32", count=1, height=height.shape[0], width=height.shape[1],
        crs=f"EPSG:{TARGET_EPSG}", transform=from_origin(*pair.reference_origin, TARGET_PIXEL_M, TARGET_PIXEL_M),
    ) as sink:  # fmt: skip
        sink.write(height[None])


def field_errors(spec: HardSpec, folder: Path, found: NDArray[np.float64]) -> Json:
    """Score positions: ``found`` holds rows of (x, y) that were given to the pixels that claim (x, y)."""
    x, y = found[:, 2] - CENTRE_XY[0], found[:, 3] - CENTRE_XY[1]
    dx, dy = true_displacement(spec)(x, y)
    with rasterio.open(folder / "reference.tif") as source:
        box = source.bounds
    true_x, true_y = found[:, 2] + dx, found[:, 3] + dy
    inside = (true_x > box.left) & (true_x < box.right) & (true_y > box.bottom) & (true_y < box.top)
    distance = np.hypot(found[:, 0] - true_x, found[:, 1] - true_y)[inside]
    return {"rmse_m": float(np.sqrt(np.mean(distance**2))), "p95_m": float(np.percentile(distance, 95))}


def run_pair(spec: HardSpec, folder: Path, *, dem: bool) -> Json:
    """``hsfuse coregister`` on the files of a pair."""
    more = ["--dem", str(folder / "dem.tif")] if dem and (folder / "dem.tif").is_file() else []
    return run_ours(folder, lambda found: field_errors(spec, folder, found), more)


def is_wrong(result: Json) -> bool:
    """Accepted with more than 15 m of error and less than half of it stated."""
    return "rmse_m" in result and result["rmse_m"] > WRONG_M and result["holdout_m"] < 0.5 * result["rmse_m"]


def is_calibrated(result: Json) -> bool:
    """Stated within a factor of two, or both so small that nobody minds."""
    true, stated = result["rmse_m"], result["holdout_m"]
    return 0.5 * true <= stated <= 2.0 * true or max(true, stated) < SMALL_M


def _row(spec: HardSpec, result: Json) -> str:
    cells = [spec.name]
    if "rmse_m" not in result:
        reason = " ".join(result["reason"].split()).rpartition("rejected: ")[2]
        cells += ["-", "-", "-", result["verdict"], "", reason[:110]]
    else:
        true, stated = result["rmse_m"], result["holdout_m"]
        note = "WRONG" if is_wrong(result) else "" if is_calibrated(result) else "off"
        cells += [f"{true:.2f}", f"{stated:.2f}", f"{stated / true:.2f}", result["verdict"], note, result["model"]]
    return "| " + " | ".join(cells) + " |"


def table(pairs: Sequence[tuple[HardSpec, Json]]) -> str:
    """Markdown table of all pairs with a summary line."""
    head = "| pair | true, m | stated, m | stated / true | verdict | note | model or reason |"
    lines = [head, "|---" * 7 + "|", *(_row(spec, result) for spec, result in pairs)]
    accepted = [result for _, result in pairs if "rmse_m" in result]
    good = sum(is_calibrated(result) for result in accepted)
    wrong = sum(is_wrong(result) for result in accepted)
    share = good / len(accepted) if accepted else float("nan")
    lines += ["", f"{len(accepted)} of {len(pairs)} accepted; {good} of them ({share:.0%}) stated within a factor of"
              f" two; {wrong} wrong by more than {WRONG_M:g} m with less than half of it stated."]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hsfuse-coregistration-hard")
    parser.add_argument("--scenes", nargs="*", help="only pairs of these names or kinds")
    parser.add_argument("--seed", type=int, default=0, help="added to the pairs' seeds")
    parser.add_argument("--dem", action="store_true", help="give the height of the ground where there is relief")
    parser.add_argument("--label", default="ours", help="name under which results are kept")
    parser.add_argument("--again", action="store_true", help="run all again")
    parser.add_argument("--out", type=Path, help="write the table here too (Markdown)")
    arguments = parser.parse_args()
    pairs: list[tuple[HardSpec, Json]] = []
    for spec in HARD_PAIRS:
        if arguments.scenes and spec.name not in arguments.scenes and spec.kind not in arguments.scenes:
            continue
        spec = replace(spec, seed=spec.seed + arguments.seed)
        slug = "".join(c if c.isalnum() else "_" for c in spec.name)
        folder = arguments.work / f"{slug}_{spec.seed}"
        write_pair(folder, spec)
        kept = folder / f"{arguments.label}{'_dem' if arguments.dem else ''}.json"
        if arguments.again or not kept.is_file():
            kept.write_text(json.dumps(run_pair(spec, folder, dem=arguments.dem), indent=1))
        pairs.append((spec, json.loads(kept.read_text())))
        print(_row(*pairs[-1]), flush=True)
    text = table(pairs)
    print("\n" + text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
