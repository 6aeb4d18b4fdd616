"""Simulate a small pair of two days in the true file formats, run the main job, score it against the known truth."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import RunConfig
from hsfuse.errors import InputError, OutputError
from hsfuse.inference import pipeline
from hsfuse.log import get_logger
from hsfuse.metrics.reference import ReferenceScores, psnr, score_all
from hsfuse.outputs import replace_file, schema_of
from hsfuse.progress import Progress, SilentProgress, Step, Within, expect
from hsfuse.readers import open_hsi
from hsfuse.resources import Resources
from hsfuse.simulate.other_day import CHANGED_PARCEL, MISSED_CLOUD
from hsfuse.simulate.scene import Truth
from hsfuse.workflows.run import run_scene
from hsfuse.workflows.simulate import simulate_products, steps_of_simulation
from hsfuse.workflows.steps.foresight import foreseen
from hsfuse.workflows.steps.inputs import open_pair
from hsfuse.workflows.steps.method_specification import parse_specification
from hsfuse.workflows.steps.prepare import PreparedScene, prepare_scene
from hsfuse.workflows.steps.resources import resolved, resources_of
from hsfuse.writers import read_identity, resolve_format
from hsfuse.writers.storage import remove

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
_SCHEMA = "hsfuse-demo/1"
DAYS_APART = 14
BASELINES = ("bicubic", "gsa", "cnmf", "glp:adaptive=false", "glp")
"""Methods that are scored beside the main job: alone, as papers have them."""
_VERSION = 2
_DIFFERENT = 0.5
"""Probability of change from which the confidence layer says that a pixel shows other ground."""
_BASELINES = Step("baselines", "fuse the same pair with the classical methods, and score all against the truth", 18.0)


@dataclass(frozen=True)
class _Scored:
    """Scores of a cube: of all of it, and PSNR where both images show other ground and where they show the same."""

    name: str
    scores: ReferenceScores
    changed_db: float | None
    same_db: float | None

    @classmethod
    def of(
        cls, name: str, truth: FloatCube, cube: FloatCube, ratio: int, valid: BoolArray, changed: BoolArray
    ) -> _Scored:
        parts = (valid & changed, valid & ~changed)
        inside, outside = (psnr(truth, cube, part) if part.any() else None for part in parts)
        return cls(name, score_all(truth, cube, ratio, valid), inside, outside)

    def to_json(self) -> dict[str, float | None]:
        """Return the scores as plain values."""
        return self.scores.to_json() | {"PSNR_changed": self.changed_db, "PSNR_same": self.same_db}


def run_demo(
    folder: Path,
    *,
    size: int = 160,
    seed: int = 0,
    method: str = "auto",
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the demonstration; see ``hsfuse demo``.

    Parameters
    ----------
    folder
        Products go to ``folder/products`` (kept and used again), results beside it.
    size
        Side of the scene in HSI pixels.
    seed
        Another seed gives another landscape.
    method
        Fusion method of the main job.
    resources
        Device, threads and memory to use; None: all that is there.
    progress
        Where to show progress.

    Returns
    -------
    dict
        Paths, scores of the cube and of the baselines on the same pixels, co-registration error in metres.
    """
    progress = progress or SilentProgress()
    _check_folder(folder)
    before = steps_of_simulation(size * size)
    after = [*foreseen(RunConfig(method=method), hsi_px=size * size), _BASELINES]
    expect(progress, [*before, *after])
    products = _products(folder, size, seed, Within(progress, [], after))
    truth = Truth.load(Path(products["truth"]))
    config = RunConfig(method=method, overwrite=True, seed=seed)
    hsi, msi, output = Path(products["hsi"]), Path(products["sentinel2"]), folder / "fused.tif"
    given = resolved(resources) if resources else resources_of(config)
    within = Within(progress, before, [_BASELINES])
    result = run_scene(hsi, [msi], output, config, resources=given, progress=within)
    rows: list[_Scored] = []
    with ExitStack() as stack:
        pair = open_pair(hsi, [msi], config, stack)
        # Every method is judged on the bands of the product: where a network was tried, it brought its own choice.
        with open_hsi(output) as product:
            own = tuple(float(nm) for nm in product.bands.centre_nm)
        prepared = prepare_scene(pair, config, SilentProgress(), network_nm=own)
        bands = pair.hsi.bands.take(prepared.scene.bands)
        reference = truth.reflectance(bands, prepared.scene.fine_grid.block_in(truth.grid))
        fused = read_cube(output)
        valid = np.all(np.isfinite(fused), axis=0)
        changed = _changed(truth, prepared)
        rows.append(_Scored.of(f"hsfuse ({result.method})", reference, fused, pair.ratio, valid, changed))
        with progress.stage("baselines", total=len(BASELINES)) as stage:
            for name in BASELINES:
                alone = parse_specification(name).create()
                cube = np.where(valid, pipeline.fuse_to_array(alone, prepared.scene, given, seed=seed), np.nan)
                rows.append(_Scored.of(f"{name} alone", reference, cube, pair.ratio, valid, changed))
                stage.advance()
        layer = result.summary.get("confidence")
        found = None if layer is None else _found_changes(Path(layer), changed & valid, valid)
        error = _field_error(truth, prepared)
    facts: dict[str, Any] = {
        "schema": _SCHEMA,
        "products": products,
        "output": str(output),
        "report": str(result.report) if result.report else None,
        "method": result.method,
        "verdict": result.summary.get("verdict"),
        "coregistration": result.summary["coregistration"],
        "coregistration_error_m": error,
        "changes": result.summary.get("changes"),
        "confidence": layer,
        "changes_found": found,
        "scores": {row.name: row.to_json() for row in rows},
        "seconds": result.summary["total_seconds"],
        "peak_memory_bytes": result.summary["peak_memory_bytes"],
    }
    replace_file(folder / "scores.json", json.dumps(facts, indent=2, default=str).encode("utf-8"))
    return facts


def _check_folder(folder: Path) -> None:
    """Make sure that only an earlier demonstration is replaced.

    Raises
    ------
    OutputError
        Somebody else's files are in the way.
    """
    output, scores = folder / "fused.tif", folder / "scores.json"
    foreign = [scores] if scores.exists() and not schema_of(scores) else []
    foreign += [output] if output.exists() and not read_identity(output, resolve_format(output)) else []
    if foreign:
        raise OutputError(f"{foreign[0]} was not made by `hsfuse demo`.", hint="Choose another folder.")


def _remove_products(home: Path, known: dict[str, Any]) -> None:
    """Delete the products of another demonstration, and nothing else."""
    for path in (Path(str(value)) for value in dict(known.get("paths", {})).values()):
        if path.parent == home:
            remove(path)
    if home.is_dir():
        others = sorted(home.iterdir())
        if others:
            raise OutputError(f"{others[0]} was not made by `hsfuse demo`.", hint="Choose another folder.")
        home.rmdir()


def _products(folder: Path, size: int, seed: int, progress: Progress) -> dict[str, str]:
    """Simulate, or use what an earlier demonstration of the same size and seed left."""
    wanted = {"size": size, "seed": seed, "version": _VERSION}
    home, marker = folder / "products", folder / "products.json"
    if marker.is_file():
        try:
            known = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            known = {}
        if known.get("wanted") == wanted and all(Path(p).exists() for p in known["paths"].values()):
            return {str(k): str(v) for k, v in known["paths"].items()}
        _remove_products(home, known)
        marker.unlink()
    elif home.exists():
        raise OutputError(f"{home} exists and was not made by `hsfuse demo`.", hint="Choose another folder.")
    paths = simulate_products(
        home, rows=size, cols=size, seed=seed, s2_bands="10m", days_apart=DAYS_APART, progress=progress
    )
    marker.write_text(json.dumps({"wanted": wanted, "paths": paths}), encoding="utf-8")
    return paths


def _changed(truth: Truth, prepared: PreparedScene) -> BoolArray:
    """Fine pixels of the scene that show another surface, or a cloud that no mask knows, on the other day."""
    block = prepared.scene.fine_grid.block_in(truth.grid)
    if truth.change is None:
        return np.zeros(block.shape, bool)
    return np.asarray(truth.change[block.slices] & (CHANGED_PARCEL | MISSED_CLOUD) > 0, dtype=np.bool_)


def _found_changes(layer: Path, changed: BoolArray, valid: BoolArray) -> dict[str, float | None]:
    """How much of the ground the confidence layer marks, and how much of what really changed is marked."""
    marked = (read_cube(layer)[0] >= _DIFFERENT) & valid
    return {
        "marked_share": float(marked[valid].mean()) if valid.any() else None,
        "changed_share": float(changed[valid].mean()) if valid.any() else None,
        "changed_marked": float(marked[changed].mean()) if changed.any() else None,
        "marked_changed": float(changed[marked].mean()) if marked.any() else None,
    }


def read_cube(path: Path) -> FloatCube:
    """Read a whole small product as reflectance, NaN where nodata.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(path) as source:
            raw = source.read(masked=True).astype(np.float32)
            scale, offset = np.asarray(source.scales, np.float32), np.asarray(source.offsets, np.float32)
    except RasterioIOError as error:
        raise InputError(f"{path} cannot be read.", hint=str(error)) from error
    cube: FloatCube = raw.filled(np.nan) * scale[:, None, None] + offset[:, None, None]
    return cube


def _field_error(truth: Truth, prepared: PreparedScene) -> dict[str, float]:
    """True error of the estimated positions over the imaged part of the HSI, in metres."""
    hsi = prepared.scene.hsi
    rows, cols = np.nonzero(hsi.valid(hsi.grid.full))
    x, y = hsi.grid.xy(rows[::7].astype(np.float64), cols[::7].astype(np.float64))
    if truth.field is None:
        raise InputError("The ground truth carries no position error.")
    true_dx, true_dy = truth.field.at(x, y)
    dx, dy = prepared.coregistration.field.at(x, y)
    distance = np.hypot(dx - true_dx, dy - true_dy)
    before = np.hypot(true_dx, true_dy)
    return {
        "before_rmse": float(np.sqrt(np.mean(before**2))),
        "rmse": float(np.sqrt(np.mean(distance**2))),
        "p95": float(np.percentile(distance, 95)),
        "max": float(distance.max()),
    }
