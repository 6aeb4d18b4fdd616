"""What can be said of a hyperspectral raster on the command line, with the names, limits and help of ``hsfuse run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsfuse.config import RunConfig

if TYPE_CHECKING:
    from hsfuse.readers.declarations import Declarations

_FIELDS = RunConfig.model_fields

Wavelengths = Annotated[Path | None, typer.Option(help=_FIELDS["wavelengths"].description)]
Scale = Annotated[float | None, typer.Option(help=_FIELDS["scale"].description)]
Offset = Annotated[float | None, typer.Option(help=_FIELDS["offset"].description)]
Nodata = Annotated[float | None, typer.Option(help=_FIELDS["nodata"].description)]


def declared_of(
    wavelengths: Path | None, scale: float | None, offset: float | None, nodata: float | None
) -> Declarations:
    """Check what was said as a run does, and return it.

    Raises
    ------
    UsageError
        Something cannot be meant.
    """
    # Readers load numpy and rasterio, which a help text does without.
    from hsfuse.readers.declarations import Declarations

    checked = RunConfig.resolve(wavelengths=wavelengths, scale=scale, offset=offset, nodata=nodata)
    return Declarations(checked.wavelengths, checked.scale, checked.offset, checked.nodata)
