"""The settings of a run as keyword arguments: their names and types for editors, their meaning for ``help``."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hsfuse.config import Compression, CoregisterMode, OutputDtype

P = ParamSpec("P")
T = TypeVar("T")


class RunSettings(TypedDict, total=False):
    """Settings of a run, all optional; :class:`hsfuse.config.RunConfig` has their defaults, limits and meaning."""

    # How the pair is aligned.
    coregister: CoregisterMode
    search_m: float
    window_px: int
    step_px: int
    min_points: int
    max_rmse_m: float
    min_correlation: float
    holdout: float
    min_peak_score: float
    min_peak_ratio: float
    dem: Path | str | None
    correct_swir: bool
    verify: bool
    # Which Sentinel-2 dates serve.
    s2_date: str | None
    max_days: float | None
    partners: int
    # Which method fuses which bands.
    method: str
    model: Path | str | None
    prior: Path | str | None
    bands: str | int
    vnir_swir_cut_nm: float
    wavelengths: Path | str | None
    scale: float | None
    offset: float | None
    nodata: float | None
    guide: Literal["s2", "pan", "pan+s2"]
    s2_bands: Literal["10m", "all"]
    allow_radiometry_mismatch: bool
    psf_fwhm: float | Literal["auto"]
    cloud_mask: bool
    cloud_dilate_px: int
    ratio: int | None
    aoi: str | None
    aoi_crs: str | None
    quality: Literal["plain", "fast", "standard", "best"]
    adapt: float | None
    back_projection: int
    back_projection_weight: float
    srf_weight: float
    # Where it is computed.
    device: str
    threads: int | None
    seed: int
    tile: int | None
    overlap: int | None
    precision: Literal["auto", "fp32", "bf16"]
    max_memory: str | None
    max_vram: str | None
    # What is written.
    format: str
    dtype: OutputDtype
    compress: Compression
    overwrite: bool
    resume: bool
    clip: bool
    report: bool
    figures: str
    min_quality: float | None
    min_confidence: float | None


def documents(config: type[BaseModel]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: put the settings of a configuration into a function's docstring and signature.

    ``help``, an editor's completion and a notebook's ``?`` then name each of them with its default.

    Parameters
    ----------
    config
        Class of the settings that the function takes as keywords.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        text = inspect.cleandoc(function.__doc__ or "")
        listed = "\n".join(_entry(name, field) for name, field in config.model_fields.items())
        head, raises, tail = text.partition("\nRaises\n------")
        function.__doc__ = f"{head.rstrip()}\n\nOther Parameters\n----------------\n{listed}\n{raises}{tail}"
        own = inspect.signature(function)
        named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        settings = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
            for name, field in config.model_fields.items()
        ]
        function.__signature__ = own.replace(parameters=[*named, *settings])  # type: ignore[attr-defined]
        return function

    return decorate


def _entry(name: str, field: FieldInfo) -> str:
    about = textwrap.fill(_sentence(field), 100, initial_indent="    ", subsequent_indent="    ")
    return f"{name} : {_type_text(field.annotation)}, default {field.default!r}\n{about}"


def _sentence(field: FieldInfo) -> str:
    text = (field.description or "").strip()
    # A value that is explained keeps its case.
    first = text[:1] if text.partition(" ")[0].endswith(":") else text[:1].upper()
    return f"{first}{text[1:]}."


def _type_text(annotation: Any) -> str:
    """A type as numpydoc has it: ``{'auto', 'off'}``, ``float or None``."""
    arguments = getattr(annotation, "__args__", None)
    if getattr(annotation, "__origin__", None) is Literal:
        return "{" + ", ".join(repr(value) for value in arguments or ()) + "}"
    if arguments:
        return " or ".join("None" if each is type(None) else _type_text(each) for each in arguments)
    return str(getattr(annotation, "__name__", annotation))
