"""Co-registration on pairs with a known error field, beside AROSICS 1.12.1 on the same files.

    python benchmarks/coregistration.py --data ../shared/data
    python benchmarks/coregistration.py --arosics-python ~/arosics/bin/python --work ~/pairs
    python benchmarks/coregistration.py --scenes "B wave" coast --seed 100

Every scene (see coregistration_scenes.py) is written as two GeoTIFF files and given to ``hsfuse coregister`` in a
process of its own. With ``--arosics-python`` the same files go to AROSICS: the global shift, then tie points with
several windows, on two bands, with and without the reference's cloud mask; the best run counts. ``--seed`` is added to
the scenes' seeds, so other numbers are other landscapes. Results are kept in the work folder (``--again`` forgets
ours, ``--again-arosics`` the others).

AROSICS needs an environment of its own, with the GDAL of the system (here Debian 12's 3.6.2, ``libgdal-dev``):

    python3.11 -m venv ~/arosics && ~/arosics/bin/pip install "numpy<2" "setuptools<80" wheel
    ~/arosics/bin/pip install --no-build-isolation "GDAL==3.6.2"
    ~/arosics/bin/pip install "GDAL==3.6.2" "numpy<2" "arosics==1.12.1" "py_tools_ds<0.24" "geoarray<0.19.2"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

sys.path.insert(0, str(Path(__file__).parent))
from coregistration_scenes import (
    CENTRE_XY,
    REFERENCE_PIXEL_M,
    SCENES,
    TARGET_EPSG,
    TARGET_PIXEL_M,
    SceneSpec,
    make_scene,
    textures,
    true_field,
)
from coregistration_tables import markdown

Json = dict[str, Any]

BANDS = (
    ("B02", 0.490, 0.065),
    ("B03", 0.560, 0.035),
    ("B04", 0.665, 0.030),
    ("B08", 0.842, 0.105),
    ("B11", 1.610, 0.09),
)
AROSICS_WINDOWS, AROSICS_GRID_PX, AROSICS_BANDS = (64, 128, 256), 20, (4, 3)
AROSICS_MAX_SHIFT, AROSICS_LOCAL_MAX_SHIFT = 45, 10
TIME_LIMIT_S = 400

_LAUNCHER = """
import json, os, signal, sys, time
out, limit, *command = sys.argv[1:]
start = time.perf_counter()
child = os.posix_spawn(command[0], command, os.environ)
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
signal.alarm(int(limit))
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
with open(out, "w") as sink:
    json.dump([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss / 1024], sink)
"""
"""A small process starts the measured one: Linux counts the memory of the starting process as the child's."""


def write_raster(
    path: Path, image: NDArray[np.float32], origin: tuple[float, float], pixel_m: float, epsg: int
) -> None:
    """Write reflectance x 10000 as uint16 with wavelengths; NaN becomes the nodata value 0."""
    stored = np.where(np.isfinite(image), np.clip(np.rint(image * 10000), 1, 65535), 0).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", count=len(stored), height=stored.shape[1], width=stored.shape[2],
        crs=f"EPSG:{epsg}", transform=from_origin(*origin, pixel_m, pixel_m), nodata=0,
    ) as sink:  # fmt: skip
        sink.write(stored)
        for index, (name, centre, width) in enumerate(BANDS[: len(stored)], start=1):
            sink.set_band_description(index, name)
            sink.update_tags(index, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=str(centre), FWHM_UM=str(width))


def write_scene(folder: Path, spec: SceneSpec, images: dict[str, NDArray[np.float32]]) -> bool:
    """Draw a scene and write its files, once; False when its texture is not at hand."""
    drawn = spec.landscape in ("parcels", "desert", "water", "other")
    if not drawn and spec.landscape not in images:
        return False
    about = json.dumps(asdict(spec))
    if (folder / "spec.json").is_file() and (folder / "spec.json").read_text() == about:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    pair = make_scene(spec, None if drawn else images[spec.landscape])
    write_raster(folder / "target.tif", pair.target, pair.target_origin, TARGET_PIXEL_M, TARGET_EPSG)
    place = (pair.reference_origin, REFERENCE_PIXEL_M, pair.reference_epsg)
    write_raster(folder / "reference_raw.tif", pair.reference, *place)
    masked = np.where(pair.reference_cloud, np.float32(np.nan), pair.reference)
    write_raster(folder / "reference.tif", masked, *place)
    with rasterio.open(folder / "reference_raw.tif") as source:
        profile = source.profile | {"dtype": "uint8", "count": 1, "nodata": None}
    with rasterio.open(folder / "cloud.tif", "w", **profile) as sink:
        sink.write(pair.reference_cloud[None].astype(np.uint8))
    if spec.other_zone:
        _to_target_zone(folder)
    (folder / "spec.json").write_text(about)
    return True


def _to_target_zone(folder: Path) -> None:
    """AROSICS cannot match across reference systems: it gets the reference warped to the target's (cubic)."""
    for name, kind in (("reference_raw.tif", Resampling.cubic), ("cloud.tif", Resampling.nearest)):
        with rasterio.open(folder / name) as source, rasterio.open(folder / "target.tif") as target:
            left, top = target.bounds.left - 600.0, target.bounds.top + 600.0
            side = round((target.width * TARGET_PIXEL_M + 1200.0) / REFERENCE_PIXEL_M)
            transform = from_origin(left, top, REFERENCE_PIXEL_M, REFERENCE_PIXEL_M)
            profile = source.profile | {"crs": target.crs, "transform": transform, "height": side, "width": side}
            with rasterio.open(folder / f"warped_{name}", "w", **profile) as sink:
                for band in source.indexes:
                    out = np.zeros((side, side), dtype=profile["dtype"])
                    reproject(
                        rasterio.band(source, band), out, dst_transform=transform, dst_crs=target.crs, resampling=kind
                    )  # fmt: skip
                    sink.write(out, band)


def errors(spec: SceneSpec, folder: Path, found: NDArray[np.float64]) -> Json:
    """Score positions: ``found`` holds rows of (x, y) that were given to the pixels that claim (x, y)."""
    x, y = found[:, 2] - CENTRE_XY[0], found[:, 3] - CENTRE_XY[1]
    half = spec.size * TARGET_PIXEL_M / 2
    inside = (np.abs(x) < half) & (np.abs(y) < half)
    x, y, found = x[inside], y[inside], found[inside]
    dx, dy = true_field(spec)(x, y)
    answered = covered(spec, folder, found[:, 2] + dx, found[:, 3] + dy)
    distance = np.hypot(found[:, 0] - found[:, 2] - dx, found[:, 1] - found[:, 3] - dy)[answered]
    whole = spec.size**2 * (spec.covered if spec.covered < 1 else 1.0)
    return {
        "rmse_m": float(np.sqrt(np.mean(distance**2))), "p95_m": float(np.percentile(distance, 95)),
        "max_m": float(distance.max()), "covered": float(answered.sum() / whole),
    }  # fmt: skip


def covered(spec: SceneSpec, folder: Path, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which true positions lie inside the reference."""
    with rasterio.open(folder / "reference.tif") as source:
        if spec.other_zone:
            from pyproj import Transformer

            x, y = Transformer.from_crs(TARGET_EPSG, source.crs, always_xy=True).transform(x, y)
        box = source.bounds
    return (x > box.left) & (x < box.right) & (y > box.bottom) & (y < box.top)


def run_limited(command: list[str]) -> tuple[int, str, float, float]:
    """Run a command; returns its exit status, its output, wall seconds and peak memory in MB (of one process)."""
    with tempfile.TemporaryDirectory() as place:
        measured, printed = Path(place) / "measured.json", Path(place) / "printed.txt"
        with printed.open("w") as sink:
            subprocess.run(
                [sys.executable, "-S", "-c", _LAUNCHER, str(measured), str(TIME_LIMIT_S), *command],
                stdout=sink, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONWARNINGS": "ignore"}, check=True,
            )  # fmt: skip
        code, seconds, memory = json.loads(measured.read_text())
        return code, printed.read_text(), seconds, memory


def run_ours(folder: Path, score: Callable[[NDArray[np.float64]], Json], options: Sequence[str] = ()) -> Json:
    """``hsfuse coregister`` on the files of a scene; ``score`` judges rows of (found x, y, claimed x, y)."""
    field = folder / "field.tif"
    command = [sys.executable, "-m", "hsfuse", "coregister", str(folder / "target.tif")]
    command += [str(folder / "reference.tif"), "-o", str(folder / "aligned.tif"), "--field", str(field), *options]
    code, output, seconds, memory = run_limited([*command, "--overwrite", "--json", "--no-progress"])
    result: Json = {"seconds": seconds, "peak_mb": memory, "exit_code": code}
    if code != 0:
        return result | {"verdict": "rejected" if code == 5 else "error", "reason": output[-600:].strip()}
    facts = json.loads(output[output.index("{") :])
    result |= {key: facts[key] for key in ("verdict", "reason", "model", "check_points", "correlation", "peak_ratio")}
    result |= {"holdout_m": facts["rmse_m"], "bias_m": facts["bias_m"], "details": facts["details"]}
    with rasterio.open(field) as source:
        dx, dy = source.read().astype(np.float64)
        transform = source.transform
    cols, rows = np.meshgrid(np.arange(dx.shape[1]) + 0.5, np.arange(dx.shape[0]) + 0.5)
    x, y = transform.c + cols * transform.a, transform.f + rows * transform.e
    found = np.stack([v.ravel() for v in (x + dx, y + dy, x, y)], axis=-1)
    (folder / "aligned.tif").unlink()
    return result | score(found)


def run_arosics(spec: SceneSpec, folder: Path, python: Path, wanted: Json, *, again: bool) -> Json:
    """One run of AROSICS on the files of a scene; its result is kept."""
    name = "arosics_{window}_{band}_{masked}".format(masked="mask" if wanted["mask"] else "plain", **wanted)
    kept = folder / f"{name}.json"
    if kept.is_file() and not again:
        return json.loads(kept.read_text())
    prefix = "warped_" if spec.other_zone else ""
    options = wanted | {
        "target": str(folder / "target.tif"), "reference": str(folder / f"{prefix}reference_raw.tif"),
        "mask": str(folder / f"{prefix}cloud.tif") if wanted["mask"] else None, "grid_res": AROSICS_GRID_PX,
        "global_window": 256, "max_shift": AROSICS_MAX_SHIFT, "local_max_shift": AROSICS_LOCAL_MAX_SHIFT,
        "cpus": os.cpu_count(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        names = [str(Path(place) / n) for n in ("options.json", "result.json", "positions.npy")]
        Path(names[0]).write_text(json.dumps(options))
        script = str(Path(__file__).parent / "coregistration_arosics.py")
        _, output, seconds, _ = run_limited([str(python), script, *names])
        result: Json = {"window": wanted["window"], "band": wanted["band"], "masked": bool(wanted["mask"])}
        if Path(names[1]).is_file():
            result |= json.loads(Path(names[1]).read_text())
        else:
            result |= {"error": f"no result after {seconds:.0f} s", "output": output[-500:]}
        if Path(names[2]).is_file():
            result |= errors(spec, folder, np.load(names[2]))
        elif "output" not in result:
            result["output"] = output[-500:]
    kept.write_text(json.dumps(result, indent=1))
    return result


def all_of_arosics(spec: SceneSpec, folder: Path, python: Path, *, again: bool) -> list[Json]:
    """The global shift and tie points with all windows; the best window also with a mask and on the other band."""
    first = AROSICS_BANDS[0]
    runs = [
        run_arosics(spec, folder, python, {"window": window, "band": first, "mask": False}, again=again)
        for window in (0, *AROSICS_WINDOWS)
    ]
    local = [run for run in runs[1:] if "rmse_m" in run]
    best = min(local, key=lambda run: run["rmse_m"])["window"] if local else 128
    for band, mask in ((first, True), *((other, False) for other in AROSICS_BANDS[1:])):
        runs.append(run_arosics(spec, folder, python, {"window": best, "band": band, "mask": mask}, again=again))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HSFUSE_SHARED_DATA"), help="folder of real images")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hsfuse-coregistration")
    parser.add_argument("--scenes", nargs="*", help="only these")
    parser.add_argument("--seed", type=int, default=0, help="added to the scenes' seeds")
    parser.add_argument("--size", type=int, help="side of the targets in pixels, instead of the scenes' own")
    parser.add_argument("--arosics-python", type=Path, help="Python of AROSICS's environment")
    parser.add_argument("--again", action="store_true", help="run ours again")
    parser.add_argument("--again-arosics", action="store_true", help="run AROSICS again")
    parser.add_argument("--out", type=Path, help="write the table here too (Markdown)")
    arguments = parser.parse_args()
    images = textures(arguments.data) if arguments.data else {}
    rows: list[Json] = []
    for spec in SCENES:
        if arguments.scenes and spec.name not in arguments.scenes:
            continue
        spec = replace(spec, seed=spec.seed + arguments.seed, size=arguments.size or spec.size)
        slug = "".join(c if c.isalnum() else "_" for c in spec.name)
        folder = arguments.work / f"{slug}_{spec.seed}_{spec.size}"
        if not write_scene(folder, spec, images):
            print(f"{spec.name}: skipped, its texture is in the data folder (--data)", flush=True)
            continue
        kept = folder / "ours.json"
        if arguments.again or not kept.is_file():
            kept.write_text(json.dumps(run_ours(folder, partial(errors, spec, folder)), indent=1))
        row: Json = {"scene": spec.name, "answer": spec.answer, "distorted": spec.distorted, "size": spec.size}
        row |= {"ours": json.loads(kept.read_text()), "arosics": []}
        if arguments.arosics_python:
            row["arosics"] = all_of_arosics(spec, folder, arguments.arosics_python, again=arguments.again_arosics)
        rows.append(row)
        print(markdown([row]).splitlines()[2], flush=True)
    table = markdown(rows)
    print("\n" + table)
    if arguments.out:
        arguments.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
