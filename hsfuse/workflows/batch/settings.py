"""Settings of ``hsfuse batch``, those of ``hsfuse run`` for every scene included, and of ``hsfuse mosaic``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from hsfuse.config import Compression, OutputDtype, RunConfig, _Config

PER_BATCH = frozenset({"overwrite", "resume", "max_memory", "threads"})
"""Settings of a run that the batch decides for each scene itself."""


class BatchConfig(RunConfig):
    """Settings of `hsfuse batch`."""

    command: ClassVar[str] = "batch"

    max_memory: str | None = Field(
        None, description="host memory of all scenes together, such as 16GB; default: 70 % of free"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of each scene; default: its share of the cores")
    max_days: float | None = Field(60.0, ge=0.0, description="largest time between the two images of a pair, in days")
    max_cloud: float = Field(80.0, ge=0.0, le=100.0, description="largest cloud cover of a Sentinel-2 product, percent")
    min_overlap: float = Field(
        0.2, gt=0.0, le=1.0, description="smallest share of the hyperspectral image that Sentinel-2 must cover"
    )
    workers: int | None = Field(
        None, ge=1, description="scenes that run at the same time; default: from cores and memory, one per GPU"
    )
    max_failures: int | None = Field(
        None, ge=1, description="start no more scenes after so many failures; default: no limit"
    )
    redo: Literal["none", "changed", "failed", "all"] = Field(
        "none",
        description="make again: changed (inputs, settings or version differ from those of the cube), failed, or all",
    )
    scheduler: str | None = Field(
        None, description="address (tcp://...) or scheduler file of a Dask cluster that runs the scenes"
    )

    @field_validator("scheduler")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("give an address such as tcp://host:8786, or a scheduler file")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.scheduler is not None and (self.max_memory is not None or self.workers is not None):
            raise ValueError("workers of a cluster have limits of their own: leave --max-memory and --workers out")
        return self

    def scene_settings(self, **changes: Any) -> dict[str, Any]:
        """Settings of one scene that differ from the defaults, as plain values; ``changes`` come from a manifest."""
        names = set(RunConfig.model_fields) - PER_BATCH
        return self.model_dump(mode="json", include=names, exclude_unset=True) | changes


class MosaicConfig(_Config):
    """Settings of `hsfuse mosaic`."""

    command: ClassVar[str] = "mosaic"

    track: str | None = Field(
        None, description="the track to join, by the beginning of its time (UTC), such as 2024-06-21; default: the only"
    )
    feather_m: float = Field(600.0, ge=0.0, le=20_000.0, description="width over which cubes blend, in metres")
    tolerance_nm: float = Field(
        1.0, gt=0.0, le=10.0, description="largest difference of centre wavelengths that count as the same band, in nm"
    )
    format: str = Field("cog", min_length=1, description="name of an output format")
    dtype: OutputDtype = Field("int16", description="int16 and uint16: reflectance x 10000; float32: reflectance")
    compress: Compression = Field("zstd", description="compression of formats that have it")
    overwrite: bool = Field(False, description="replace an existing output")
    resume: bool = Field(False, description="go on with an interrupted run")
    threads: int | None = Field(None, ge=1, description="threads that compress; default: all")
