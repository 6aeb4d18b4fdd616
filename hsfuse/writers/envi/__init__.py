"""ENVI: a raw file, band interleaved by line, and a header in text."""

from __future__ import annotations

from pathlib import Path

from hsfuse.writers.format import BuildOptions, CubeContent, CubeReader, FormatEntry


def _companions(path: Path) -> dict[str, Path]:
    return {"header": path.with_suffix(".hdr")}


def _header_users(path: Path) -> list[Path]:
    from hsfuse.writers.envi.header import other_users

    return other_users(path.with_suffix(".hdr"), path)


def _build(content: CubeContent, path: Path, options: BuildOptions) -> None:
    from hsfuse.writers.envi.raw import write_envi

    write_envi(content, path, options)


def _open(path: Path) -> CubeReader:
    from hsfuse.writers.envi.raw import EnviCube

    return EnviCube(path)


FORMAT = FormatEntry(
    name="envi",
    summary="ENVI raw file, band interleaved by line, with its header",
    suffixes=(".img", ".dat", ".bil", ".raw", ".envi"),
    media_type="application/octet-stream",
    build=_build,
    open=_open,
    any_suffix=True,
    refused_suffixes=(".bsq", ".bip"),
    keeps_rows=True,
    companions=_companions,
    companion_users=_header_users,
)
"""The entry of the registry."""
