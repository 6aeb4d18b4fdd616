"""Metadata of a GDAL dataset; items that are not in UTF-8 are passed over instead of ending the program."""

from __future__ import annotations

from rasterio.io import DatasetReader


def tags(dataset: DatasetReader, band: int = 0, *, ns: str | None = None) -> dict[str, str]:
    """Return the items of a domain, of the dataset (band 0) or of a band; none when they cannot be decoded."""
    try:
        return dict(dataset.tags(band, ns=ns))
    except UnicodeDecodeError:
        return {}


def domains(dataset: DatasetReader, band: int = 0) -> list[str]:
    """Return the names of the metadata domains."""
    try:
        return list(dataset.tag_namespaces(band))
    except UnicodeDecodeError:
        return []


def descriptions(dataset: DatasetReader) -> tuple[str | None, ...]:
    """Return the descriptions of the bands; None where there is none, or none that can be decoded."""
    try:
        return tuple(None if text is None else str(text) for text in dataset.descriptions)
    except UnicodeDecodeError:
        return (None,) * int(dataset.count)
