"""The checks for other people's methods, readers, writers and metrics hold for our own, and find what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsfuse.degrade import UPSAMPLE_HALO_PX, upsample
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.create import create_method
from hsfuse.metrics import METRICS, Evidence, Metric, MetricText
from hsfuse.readers.entry import READERS
from hsfuse.testing import SmallScene, check_method, check_metric, check_reader, check_writer, small_scene
from hsfuse.writers import FORMATS


@pytest.fixture(scope="module")
def scene() -> SmallScene:
    return small_scene()


@pytest.mark.parametrize("name", ["bicubic", "gsa", "glp", "cnmf"])
def test_own_methods(scene: SmallScene, name: str) -> None:
    check_method(lambda: create_method(name), scene)


@pytest.mark.parametrize("name", METRICS.names())
def test_own_metrics(scene: SmallScene, name: str) -> None:
    check_metric(METRICS.get(name), scene)


@pytest.mark.parametrize("name", FORMATS.names())
def test_own_formats(scene: SmallScene, tmp_path: Path, name: str) -> None:
    check_writer(FORMATS.get(name), tmp_path, scene)


def test_the_raster_reader(scene: SmallScene, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    check_reader(
        replace(READERS.get("raster"), roles=frozenset({"hsi"})), scene.write_hsi(tmp_path / "h.tif"),
        foreign=tmp_path / "nowhere.tif",
    )  # fmt: skip
    check_reader(
        replace(READERS.get("raster"), roles=frozenset({"msi"})), scene.write_msi(tmp_path / "m.tif"),
        foreign=tmp_path / "nowhere.tif",
    )  # fmt: skip


class _Interpolation(FusionMethod):
    """A method with a fault, as asked for."""

    def __init__(self, fault: str) -> None:
        self._fault, self._calls = fault, 0

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec("faulty", "classical", 1 if self._fault == "halo" else UPSAMPLE_HALO_PX)

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        self._ratio = context.ratio

    def fuse(self, hsi: Any, msi: Any) -> Any:
        result = upsample(hsi, self._ratio)
        if self._fault == "tile":
            return result * (1.0 + hsi.mean())
        if self._fault == "random":
            return result + np.random.default_rng().uniform()
        if self._fault == "shape":
            return result[..., 1:]
        if self._fault == "finite":
            return result / 0.0
        return result.double() if self._fault == "type" else result


@pytest.mark.parametrize(
    ("fault", "words"),
    [("halo", "halo of 1"), ("tile", "learns from the tile"), ("random", "run again"), ("shape", "grid"),
     ("finite", "not finite"), ("type", "float64")],
)  # fmt: skip
def test_faults_of_methods_are_found(scene: SmallScene, fault: str, words: str) -> None:
    check_method(lambda: _Interpolation(""), scene)
    with pytest.raises(AssertionError, match=words):
        check_method(lambda: _Interpolation(fault), scene)


def test_faults_of_metrics_are_found(scene: SmallScene) -> None:
    def error(evidence: Evidence) -> float:
        return float(np.nanmean(np.abs(evidence.fused - evidence.need_reference())))

    right = Metric("mae", error, frozenset({"reference"}), MetricText("MAE", "Mean absolute error."), direction=-1)
    with pytest.warns(RuntimeWarning, match="empty"):
        check_metric(right, scene)
    with pytest.raises(AssertionError, match="prefers noise"):
        check_metric(replace(right, direction=1), scene)
    with pytest.raises(AssertionError, match="what it means"), pytest.warns(RuntimeWarning):
        check_metric(replace(right, text=MetricText("MAE", "")), scene)


def test_faults_of_writers_are_found(scene: SmallScene, tmp_path: Path) -> None:
    envi = FORMATS.get("envi")

    def elsewhere(path: Path) -> Any:
        reader = envi.open(path)
        reader._scale = reader._scale * 2  # type: ignore[attr-defined]
        return reader

    with pytest.raises(AssertionError):
        check_writer(replace(envi, open=elsewhere), tmp_path, scene)
    (tmp_path / "b").mkdir()
    with pytest.raises(AssertionError, match="is_folder=True"):
        check_writer(replace(envi, is_folder=True), tmp_path / "b", scene)


def test_faults_of_readers_are_found(scene: SmallScene, tmp_path: Path) -> None:
    entry, path = READERS.get("raster"), scene.write_hsi(tmp_path / "h.tif")
    foreign = tmp_path / "nowhere.tif"
    with pytest.raises(AssertionError, match="does not know"):
        check_reader(replace(entry, probe=lambda path: 0.0), path, foreign=foreign)
    with pytest.raises(AssertionError, match="for its own"):
        check_reader(replace(entry, probe=lambda path: 1.0), path, foreign=foreign)
