"""The model zoo: where trained networks lie, what they say about themselves, and which scene bands they take.

Nothing here needs torch, so listing models and planning a run stay fast.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.errors import InputError, UsageError
from hsfuse.spectral import BandTable

FORMAT = "hsfuse-network"
FORMAT_VERSION = 1
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "weights.safetensors", "config.toml", "card.md"
_MAX_HEADER_BYTES = 100_000_000
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_TRAIN_HINT = "Use --method glp, or train it with 'hsfuse train-reduced'."


@dataclass(frozen=True)
class NetworkHeader:
    """What a weights file says about its network.

    Attributes
    ----------
    name
        Preset or name given in training.
    config
        The network's configuration, plain values.
    centre_nm, fwhm_nm
        Bands that it was trained on, in order.
    ratios
        Ratios that it was trained for.
    msi_bands
        Names of the MSI bands, in order.
    draft
        Method that makes the draft it corrects; empty for a network that needs none.
    halo_px, overlap_px
        Tiling that it needs, in HSI pixels (0: the default of its configuration).
    training
        Record of the training: data, recipe, hardware, scores.
    """

    name: str
    config: dict[str, Any]
    centre_nm: tuple[float, ...]
    fwhm_nm: tuple[float, ...]
    ratios: tuple[int, ...]
    msi_bands: tuple[str, ...] = ()
    draft: str = ""
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
            "config": self.config,
            "normalisation": self.config.get("normalisation", "none"),
            "centre_nm": list(self.centre_nm),
            "fwhm_nm": list(self.fwhm_nm),
            "ratios": list(self.ratios),
            "msi_bands": list(self.msi_bands),
            "draft": self.draft,
            "halo_px": self.halo_px,
            "overlap_px": self.overlap_px,
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
            content = json.loads(metadata[FORMAT])
            header = cls(
                name=str(content["name"]),
                config=dict(content["config"]),
                centre_nm=tuple(float(v) for v in content["centre_nm"]),
                fwhm_nm=tuple(float(v) for v in content["fwhm_nm"]),
                ratios=tuple(int(v) for v in content["ratios"]),
                msi_bands=tuple(str(v) for v in content["msi_bands"]),
                draft=str(content["draft"]),
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
        bands = self.config.get("n_bands")
        if not (len(self.centre_nm) == len(self.fwhm_nm) == bands):
            raise InputError(
                f"{path} describes {bands} bands but carries {len(self.centre_nm)} wavelengths "
                f"and {len(self.fwhm_nm)} widths.",
                hint="Copy or train the weights again.",
            )
        if not np.all(np.isfinite(self.centre_nm)) or not self.ratios or min(self.ratios) < 2:
            raise InputError(f"{path} carries impossible wavelengths or ratios.", hint="Train the weights again.")


@dataclass(frozen=True)
class ModelInfo:
    """One entry of the zoo.

    Attributes
    ----------
    name
        As given to ``--method`` or ``--model``.
    folder
        Where config.toml lies; for a bare weights file, its folder.
    weights
        The weights file, or None while nobody has trained the network.
    description
        One line.
    network
        Network configuration, plain values.
    """

    name: str
    folder: Path
    weights: Path | None
    description: str
    network: dict[str, Any]

    @property
    def card(self) -> Path | None:
        """The model card, where there is one."""
        path = self.folder / CARD_FILE
        return path if path.is_file() else None

    def header(self) -> NetworkHeader | None:
        """What the weights say about themselves; None without weights."""
        return None if self.weights is None else read_header(self.weights)


def zoo_folders() -> list[Path]:
    """Folders that may hold the zoo: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[2]
    return [folder for folder in (package / "_models", package.parent / "models") if folder.is_dir()]


def list_models() -> list[ModelInfo]:
    """All networks of the zoo, trained or not, in alphabetical order."""
    found: dict[str, ModelInfo] = {}
    for root in zoo_folders():
        for folder in sorted(root.iterdir()):
            if (folder / CONFIG_FILE).is_file() and folder.name not in found:
                found[folder.name] = _read_entry(folder)
    return [found[name] for name in sorted(found)]


def find_model(name_or_path: str | Path) -> ModelInfo:
    """Find a network by its name in the zoo, or by the path of its weights or folder.

    Raises
    ------
    UsageError
        There is no such network.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors" or path.is_file():
        if not path.is_file():
            raise UsageError(f"There is no weights file {path}.", hint="Check the path.")
        return ModelInfo(path.stem, path.parent, path, str(path), read_header(path).config)
    if path.is_dir() and (path / CONFIG_FILE).is_file():
        return _read_entry(path)
    for entry in list_models():
        if entry.name == str(name_or_path):
            return entry
    names = ", ".join(entry.name for entry in list_models()) or "none"
    raise UsageError(
        f"There is no network '{name_or_path}'.",
        hint=f"Give a .safetensors file or one of the zoo: {names}.",
    )


def untrained(name: str) -> UsageError:
    """The error for a network that nobody has trained yet."""
    return UsageError(f"The network '{name}' has no trained weights.", hint=_TRAIN_HINT)


def _read_entry(folder: Path) -> ModelInfo:
    try:
        content = tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        network = dict(content["network"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / CONFIG_FILE} cannot be read ({error}).", hint="Restore the file from the package."
        ) from error
    weights = folder / WEIGHTS_FILE
    description = str(content.get("description", ""))
    return ModelInfo(folder.name, folder, weights if weights.is_file() else None, description, network)


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


def match_bands(spec_centre_nm: ArrayLike, scene_bands: BandTable | ArrayLike) -> NDArray[np.int64]:
    """Find the scene band for every band of a network, by wavelength.

    Parameters
    ----------
    spec_centre_nm
        Centre wavelengths of the network, nm, shape (band,).
    scene_bands
        Bands of the scene (any order, any number), or their centre wavelengths. Bands that the producer marks as
        bad are not used.

    Returns
    -------
    numpy.ndarray
        Index into the scene's bands, shape (band,).

    Raises
    ------
    InputError
        The scene has no band within half the network's local band spacing of some wavelength, or one scene band
        would have to stand for two.
    """
    wanted = np.atleast_1d(np.asarray(spec_centre_nm, dtype=np.float64))
    if isinstance(scene_bands, BandTable):
        centre, usable = scene_bands.centre_nm, np.asarray(scene_bands.good, bool)
    else:
        centre = np.atleast_1d(np.asarray(scene_bands, dtype=np.float64))
        usable = np.ones(centre.shape, bool)
    if not usable.any():
        raise InputError("The scene has no usable band.", hint="Check the wavelengths and bad-band flags.")
    distance = np.abs(wanted[:, None] - centre[None, :])
    distance[:, ~usable] = np.inf
    index = distance.argmin(axis=1)
    missing = distance[np.arange(wanted.size), index] > half_spacing(wanted)
    if missing.any():
        shown = ", ".join(f"{nm:.0f}" for nm in wanted[missing][:6]) + (", ..." if missing.sum() > 6 else "")
        raise InputError(
            f"The scene has no band for {int(missing.sum())} of the network's {wanted.size} wavelengths ({shown} nm).",
            hint="Use --method glp for this sensor, or train a network on its bands.",
        )
    if np.unique(index).size != index.size:
        raise InputError(
            "The scene's bands are too coarse for this network: one band would have to stand for two.",
            hint="Use --method glp for this sensor, or train a network on its bands.",
        )
    return index.astype(np.int64)


def half_spacing(centre_nm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the distance to the nearer neighbour of every band, nm; at least 2 nm, 5 nm for a single band."""
    if centre_nm.size < 2:
        return np.full(centre_nm.size, 5.0)
    order = np.argsort(centre_nm)
    gaps = np.diff(centre_nm[order])
    nearer = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    result = np.empty_like(centre_nm)
    result[order] = np.maximum(nearer / 2.0, 2.0)
    return result
