"""What a weights file says about its network; read without PyTorch.

A file names its architecture, the bands, ratios and MSI bands that it was trained for, and the settings that its
architecture is built from. Files of version 1 named no architecture and are not read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hsfuse.errors import InputError
from hsfuse.fusion.registry import architecture_today
from hsfuse.spectral import BandTable

FORMAT = "hsfuse-network"
FORMAT_VERSION = 2
_MAX_HEADER_BYTES = 100_000_000
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class NetworkHeader:
    """What a weights file says about its network.

    Attributes
    ----------
    name
        Preset or name given in training.
    architecture
        Which network it is, by today's name; see :class:`hsfuse.fusion.registry.NetworkEntry`.
    config
        The network's settings, plain values.
    centre_nm, fwhm_nm
        Bands that it was trained on, in order; empty for a network that takes any bands.
    ratios
        Ratios that it was trained for; empty for any.
    msi_bands
        Names of the MSI bands, in order; empty for any.
    n_msi
        Number of MSI bands; 0 for any.
    base
        Method of the base estimate that it corrects; empty for a network that needs none.
    halo_px, overlap_px
        Tiling that it needs, in HSI pixels (0: the default of its configuration).
    training
        Record of the training: data, recipe, hardware, scores.
    """

    name: str
    architecture: str
    config: dict[str, Any]
    centre_nm: tuple[float, ...]
    fwhm_nm: tuple[float, ...]
    ratios: tuple[int, ...]
    msi_bands: tuple[str, ...] = ()
    n_msi: int = 0
    base: str = ""
    halo_px: int = 0
    overlap_px: int = 0
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def bands(self) -> BandTable:
        """The bands that it was trained on."""
        return BandTable.make(self.centre_nm, self.fwhm_nm)

    def to_metadata(self) -> dict[str, str]:
        """Return the strings stored in a safetensors file."""
        content = {
            "name": self.name,
            "architecture": self.architecture,
            "centre_nm": list(self.centre_nm),
            "fwhm_nm": list(self.fwhm_nm),
            "ratios": list(self.ratios),
            "msi_bands": list(self.msi_bands),
            "n_msi": self.n_msi,
            "base": self.base,
            "halo_px": self.halo_px,
            "overlap_px": self.overlap_px,
            "config": self.config,
            "training": self.training,
        }
        return {"format": FORMAT, "format_version": str(FORMAT_VERSION), FORMAT: json.dumps(content)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], path: Path) -> NetworkHeader:
        """Read the strings of a safetensors file.

        Raises
        ------
        InputError
            The file was not written by hsfuse, by a newer version, or is inconsistent.
        """
        if metadata.get("format") != FORMAT or FORMAT not in metadata:
            raise InputError(
                f"{path} is a safetensors file, but not a network of hsfuse.",
                hint="Only weights written by 'hsfuse train-reduced' carry the configuration and wavelengths needed.",
            )
        try:
            version = int(metadata.get("format_version", "0"))
            if version > FORMAT_VERSION:
                raise InputError(
                    f"{path} was written by a newer version of hsfuse (format {version}).",
                    hint="Update hsfuse.",
                )
            if version < FORMAT_VERSION:
                raise InputError(
                    f"{path} was written by a former version of hsfuse (format {version}), for networks that corrected "
                    "a base estimate; those of today cannot use it.",
                    hint="Leave it out: the weights that come with hsfuse serve any bands. 'hsfuse train-reduced' "
                    "trains others.",
                )
            content = json.loads(metadata[FORMAT])
            header = cls(
                name=str(content["name"]),
                architecture=architecture_today(str(content["architecture"])),
                config=dict(content["config"]),
                centre_nm=tuple(float(v) for v in content["centre_nm"]),
                fwhm_nm=tuple(float(v) for v in content["fwhm_nm"]),
                ratios=tuple(int(v) for v in content["ratios"]),
                msi_bands=tuple(str(v) for v in content["msi_bands"]),
                n_msi=int(content["n_msi"]),
                base=str(content["base"]),
                halo_px=int(content["halo_px"]),
                overlap_px=int(content["overlap_px"]),
                training=dict(content["training"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The description inside {path} is damaged ({type(error).__name__}: {error}).",
                hint="Copy or train the weights again.",
            ) from error
        header.check(path)
        return header

    def check(self, path: Path) -> None:
        """Raise InputError when wavelengths and configuration contradict each other."""
        count = len(self.centre_nm)
        bands = self.config.get("n_bands", count) if count else 0
        if not (count == len(self.fwhm_nm) == bands):
            raise InputError(
                f"{path} describes {bands} bands but carries {count} wavelengths and {len(self.fwhm_nm)} widths.",
                hint="Copy or train the weights again.",
            )
        if not np.all(np.isfinite(self.centre_nm)) or min(self.ratios, default=2) < 2:
            raise InputError(f"{path} carries impossible wavelengths or ratios.", hint="Train the weights again.")
        if self.msi_bands and len(self.msi_bands) != self.n_msi:
            raise InputError(
                f"{path} names {len(self.msi_bands)} MSI bands but takes {self.n_msi}.", hint="Train the weights again."
            )


def read_header(path: Path) -> NetworkHeader:
    """Read a weights file's description without loading its tensors.

    Raises
    ------
    InputError
        The file is missing, a pickle, damaged, or not a network of hsfuse.
    """
    header = _read_json_header(path)
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise InputError(f"The header of {path} is damaged.", hint="Copy or train the weights again.")
    return NetworkHeader.from_metadata({str(k): str(v) for k, v in metadata.items()}, path)


def _read_json_header(path: Path) -> dict[str, Any]:
    damaged = InputError(
        f"{path} is not a safetensors file, or is damaged.", hint="Copy it again; only .safetensors weights are read."
    )
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            if start.startswith(_PICKLE_MAGIC):
                raise InputError(
                    f"{path} is a pickle (PyTorch checkpoint), which can run code when it is opened.",
                    hint="hsfuse reads safetensors only; convert the file where you trust its origin.",
                )
            size = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= size <= _MAX_HEADER_BYTES:
                raise damaged
            content = json.loads(stream.read(size))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", hint="Check path and permissions.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged from error
    if not isinstance(content, dict):
        raise damaged
    return content


def file_sha256(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
