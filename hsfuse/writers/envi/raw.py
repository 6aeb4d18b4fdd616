"""Writing and reading back ENVI products. The unfinished run's rows are the raw file already."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hsfuse.writers.envi.header import FINGERPRINT_FIELD, header_text
from hsfuse.writers.format import BuildOptions, CubeContent
from hsfuse.writers.provenance import sampled_hash
from hsfuse.writers.raster_cube import RasterCube


def write_envi(content: CubeContent, path: Path, options: BuildOptions) -> None:
    """Write the raw file and its header; where the rows lie in such a file already, it gets a second name."""
    rows = content.rows
    if rows.raw_file is None:
        _copy_rows(content, path)
    else:
        try:
            os.link(rows.raw_file, path)
        except OSError:
            # Not every file system has hard links.
            shutil.copyfile(rows.raw_file, path)
    text = header_text(content.metadata, content.grid, content.encoding, sampled_hash(path))
    path.with_suffix(".hdr").write_text(text, encoding="utf-8")
    options.advance(float(rows.shape[1]))


def _copy_rows(content: CubeContent, path: Path) -> None:
    with path.open("wb") as stream:
        for row in range(content.rows.shape[1]):
            stream.write(content.rows.read(row, 1).transpose(1, 0, 2).tobytes())


class EnviCube(RasterCube):
    """An ENVI product, whose identity stands in its header and holds for the data that the header was made for."""

    @property
    def identity(self) -> str:
        """Identity of the run that made the product; empty where there is none, or the data are others."""
        fields = self._dataset.tags(ns="ENVI")
        known = fields.get(FINGERPRINT_FIELD.replace(" ", "_"))
        return str(fields.get("hsfuse_identity") or "") if known and known == sampled_hash(self._path) else ""
