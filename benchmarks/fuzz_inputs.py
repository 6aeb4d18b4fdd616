"""What the cases of fuzz.py read: undamaged inputs, copies of them to damage, and a look at these without hsfuse."""

from __future__ import annotations

import io
import json
import random
import shutil
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import rasterio

FORMATS = {"gtiff": "out.tif", "cog": "out.tif", "envi": "out.img"}
SETTINGS = ("--method", "bicubic", "--bands", "12", "--coregister", "off", "--psf-fwhm", "1", "--no-report",
            "--no-progress", "--threads", "1", "--device", "cpu", "--tile", "60")  # fmt: skip
"""Of every run; what a kind of case gives itself comes later and counts."""
KINDS = {"products": 6, "zips": 3, "rasters": 4, "settings": 2, "weights": 1}
"""What a run is given, and how often."""
_ENVI_NUMBERS = ("wavelength", "fwhm", "map info", "reflectance scale factor", "data gain values", "data offset values")


@dataclass(frozen=True)
class Bench:
    """Undamaged inputs, and the cubes that they give."""

    folder: Path

    def files(self, kind: str) -> list[Path]:
        """HSI, MSI and, for some kinds, a file that an option names."""
        safe = next(self.folder.glob("*.SAFE"))
        hsi = next(self.folder.glob("*.he5"))
        rasters = [self.folder / "hsi.img", self.folder / "msi.tif"]
        return {
            "products": [hsi, safe],
            "zips": [self.folder / "hsi.zip", self.folder / "msi.zip"],
            "stored": [hsi, self.folder / "stored.zip"],
            "rasters": rasters,
            "tiffs": [self.folder / "hsi.tif", self.folder / "msi.tif"],
            "config": [*rasters, self.folder / "run.toml"],
            "aoi": [*rasters, self.folder / "area.geojson"],
            "bands": [*rasters, self.folder / "bands.txt"],
            "weights": [*rasters, self.folder / "tiny.safetensors"],
        }[kind]

    def arguments(self, kind: str, files: list[Path] | None = None) -> list[Any]:
        """Arguments of ``hsfuse run`` for a kind of inputs."""
        hsi, msi, *more = files or self.files(kind)
        options = {"config": "--config", "aoi": "--aoi", "bands": "--bands", "weights": "--model"}
        given = [hsi, msi, *([options[kind], more[0]] if more else [])]
        return given + (["--method", "ssrnet-lite", "--bands", "all"] if kind == "weights" else [])

    def cube(self, kind: str) -> np.ndarray:
        """Undamaged cube of a kind of inputs."""
        return np.asarray(np.load(self.folder / f"{kind}.npy"))

    def words(self, kind: str) -> str:
        """What the run said that made it."""
        return (self.folder / f"{kind}.said").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Case:
    """A copy of some inputs, one file of which is to be damaged."""

    kind: str
    arguments: list[Any]
    target: Path
    root: Path
    verified: bool

    @property
    def label(self) -> str:
        """Kind and name of the file."""
        return f"{self.kind}/{self.target.name}"

    @property
    def names(self) -> tuple[str, ...]:
        """What a warning has to mention: the damaged file, or the product that it belongs to."""
        return (self.target.name, self.root.stem, self.root.name, "The file ", "the file")


ALL_KINDS = ("products", "zips", "stored", "rasters", "tiffs", "config", "aoi", "bands", "weights")


def prepare(folder: Path, call: Callable[..., tuple[int | None, float, str]]) -> Bench:
    """Make the inputs, and the cubes of undamaged ones; ``call`` runs a command."""
    bench = Bench(folder)
    if (folder / "ready").exists():
        return bench
    shutil.rmtree(folder, ignore_errors=True)
    _make_products(folder)
    _make_rasters(folder)
    for kind in ALL_KINDS:
        output = folder / f"{kind}.tif"
        code, _, said = call(["run", *SETTINGS, *bench.arguments(kind), "-o", output], folder)
        if code != 0:
            raise RuntimeError(f"undamaged {kind} cannot be fused: {said}")
        np.save(folder / f"{kind}.npy", _stored(output))
        (folder / f"{kind}.said").write_text(said, encoding="utf-8")
    for file_format, name in FORMATS.items():
        (folder / file_format).mkdir()
        output = folder / file_format / name
        call(["run", *SETTINGS, *bench.arguments("rasters"), "-o", output, "--format", file_format], folder)
    (folder / "ready").touch()
    return bench


def _make_products(folder: Path) -> None:
    from hsfuse.workflows.simulate import simulate_products

    simulate_products(folder, rows=40, cols=40, seed=1, clouds=0.02)
    hsi, safe = next(folder.glob("*.he5")), next(folder.glob("*.SAFE"))
    with zipfile.ZipFile(folder / "hsi.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(hsi, hsi.name)
    for name, compression in (("msi.zip", zipfile.ZIP_DEFLATED), ("stored.zip", zipfile.ZIP_STORED)):
        with zipfile.ZipFile(folder / name, "w", compression) as archive:
            for path in sorted(safe.rglob("*")):
                archive.write(path, path.relative_to(folder))


def _make_rasters(folder: Path) -> None:
    from hsfuse.testing import small_scene
    from hsfuse.writers import CubeWriter, WriteOptions

    scene = small_scene(1)
    scene.write_msi(folder / "msi.tif")
    scene.write_hsi(folder / "hsi.tif")
    envi = folder / "hsi.img"
    with CubeWriter(envi, scene.grid, scene.bands, WriteOptions(), identity="x", provenance={}) as writer:
        writer.write_rows(0, scene.hsi)
        writer.finish()
    envi.with_name(envi.name + ".stac.json").unlink()
    (folder / "run.toml").write_text(
        '# A run.\nmethod = "bicubic"\nbands = "12"\ncoregister = "off"\npsf_fwhm = 1.0\nclip = true\nseed = 3\n'
    )
    box = scene.fine_grid.bounds
    corners = [[box.left + 90, box.bottom + 90], [box.right - 60, box.bottom + 90], [box.right - 60, box.top - 90],
               [box.left + 90, box.top - 90], [box.left + 90, box.bottom + 90]]  # fmt: skip
    area = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": scene.grid.crs.to_string()}},
        "features": [{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}}],
    }
    (folder / "area.geojson").write_text(json.dumps(area))
    (folder / "bands.txt").write_text("".join(f"{nm:.1f}\n" for nm in scene.bands.centre_nm[::2]))
    _make_weights(folder / "tiny.safetensors", scene)


def _make_weights(path: Path, scene: Any) -> None:
    import torch

    from hsfuse.fusion.methods.ssrnet.config import SsrnetSettings
    from hsfuse.fusion.methods.ssrnet.network import Ssrnet
    from hsfuse.fusion.nets.header import NetworkHeader
    from hsfuse.fusion.nets.weights import save_weights

    torch.manual_seed(0)
    settings = SsrnetSettings(n_bands=len(scene.bands), base="estimate")
    network = Ssrnet(settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    header = NetworkHeader(
        name="tiny", architecture="ssrnet", config=settings.to_dict(),
        centre_nm=tuple(map(float, scene.bands.centre_nm)), fwhm_nm=tuple(map(float, scene.bands.fwhm_nm)),
        ratios=(3,), msi_bands=("B02", "B03", "B04", "B08"), n_msi=4, base="glp", training={},
    )  # fmt: skip
    save_weights(path, network, header)


def copy_of(bench: Bench, rng: random.Random, folder: Path) -> Case:
    """Copy what a case reads, and choose what is damaged and whether checksums are compared."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "settings":
        kind = rng.choice(("config", "aoi", "bands"))
    elif kind in ("zips", "rasters"):
        kind = rng.choice({"zips": ("zips", "stored"), "rasters": ("rasters", "rasters", "tiffs")}[kind])
    files = [_copied(path, folder) for path in bench.files(kind)]
    roots = files[2:] or files
    if kind == "stored":
        roots = files[1:]
    choices = [(root, target) for root in roots for target in _targets(root)]
    root, target = rng.choice(choices)
    verified = rng.random() < 0.5
    flags = [] if verified else ["--no-verify"]
    return Case(kind, [*bench.arguments(kind, files), *flags], target, root, verified)


def _copied(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    for item in (path, path.with_suffix(".hdr")) if path.suffix == ".img" else (path,):
        shutil.copy(item, folder)
    return folder / path.name


def _targets(root: Path) -> list[Path]:
    if root.is_dir():
        return sorted(item for item in root.rglob("*") if item.is_file())
    # Raw samples of ENVI carry nothing that damage could contradict but their number.
    return [root.with_suffix(".hdr")] * 3 + [root] if root.suffix == ".img" else [root]


def same_cube(expected: np.ndarray, output: Path) -> bool:
    """Whether a cube holds these samples."""
    cube = _stored(output)
    return cube.shape == expected.shape and np.array_equal(cube, expected)


def _stored(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read())


# --- a look without hsfuse ---------------------------------------------------------------------------------------


def plausible(case: Case, before: bytes) -> str:
    """Say why nobody could know that a file is damaged; empty where somebody could.

    That is so where it is well-formed, carries no checksum that was to be compared, and differs from the undamaged one
    in samples, or in a number or name that stands for itself.
    """
    after = case.target.read_bytes()
    suffix = case.target.suffix.lower()
    if suffix in (".toml", ".txt", ".geojson"):
        return "another setting, well-formed" if _other_setting(suffix, before, after) else ""
    if suffix == ".img":
        return "samples of ENVI carry no checksum" if len(before) == len(after) else ""
    if suffix == ".safetensors":
        head = 8 + int.from_bytes(before[:8], "little")
        return "weights carry no checksum" if before[:head] == after[:head] and len(before) == len(after) else ""
    if suffix in (".jp2", ".xml", ".safe", ".gml", ".zip") and case.verified and suffix != ".zip":
        return ""
    looks: dict[str, Callable[[bytes, bytes], str]] = {
        ".he5": _other_samples_hdf5, ".tif": _other_samples, ".jp2": _other_samples, ".hdr": _other_numbers_envi,
        ".xml": _other_numbers_xml,
    }  # fmt: skip
    try:
        return looks[suffix](before, after) if suffix in looks else ""
    except (OSError, ValueError, KeyError, RuntimeError, SyntaxError, rasterio.errors.RasterioError):
        return ""


def _other_setting(suffix: str, before: bytes, after: bytes) -> bool:
    try:
        if suffix == ".toml":
            return tomllib.loads(before.decode()) != tomllib.loads(after.decode())
        if suffix == ".geojson":
            return bool(json.loads(before) != json.loads(after))
        return [float(line.split("#")[0]) for line in after.decode().split()] != []
    except ValueError:
        return False


def _other_samples(before: bytes, after: bytes) -> str:
    found = []
    for content in (before, after):
        with rasterio.MemoryFile(content) as memory, memory.open() as image:
            tags = [image.tags(), *(image.tags(index) for index in image.indexes)]
            found.append(((image.profile, image.scales, image.offsets, tags), image.read()))
    (facts, samples), (other_facts, other_samples) = found
    # What a JPEG 2000 file of a product says of its place is said by the product's metadata too, which then count.
    is_image = b"jP  " in before[:12] and samples.shape == other_samples.shape
    same_facts = is_image or json.dumps(facts, default=str) == json.dumps(other_facts, default=str)
    changed = not np.array_equal(samples, other_samples)
    return "other samples, well-formed, without a checksum" if same_facts and changed else ""


def _other_samples_hdf5(before: bytes, after: bytes) -> str:
    (facts, samples), (other_facts, other_samples) = (_hdf5(content) for content in (before, after))
    if facts.keys() != other_facts.keys():
        return ""
    names = [name for name in samples if samples[name] != other_samples.get(name)]
    changed = [name for name in facts if facts[name] != other_facts[name]]
    if len(changed) == 1 and not names:
        return f"another number in the attributes of {changed[0]}, without a checksum"
    # Whoever needs an attribute misses one that has another name.
    if names and all(_alike(facts[name], other_facts[name]) for name in changed):
        return f"other samples of {names[0]}, without a checksum"
    return ""


def _hdf5(content: bytes) -> tuple[dict[str, list[Any]], dict[str, bytes]]:
    """Attributes with shape and type, and samples, of everything in a file."""
    facts: dict[str, list[Any]] = {}
    samples: dict[str, bytes] = {}
    with h5py.File(io.BytesIO(content), "r") as file:

        def note(name: str, item: Any) -> None:
            facts[name] = [np.asarray(value).tolist() for value in item.attrs.values()]
            if isinstance(item, h5py.Dataset):
                facts[name] += [str(item.shape), str(item.dtype)]
                samples[name] = np.asarray(item[()]).tobytes()

        note("/", file)
        file.visititems(note)
    return facts, samples


def _alike(values: list[Any], others: list[Any]) -> bool:
    """Whether lists hold the same values in any order, but for the last digits of numbers."""
    pairs = zip(*(sorted(some, key=repr) for some in (values, others)), strict=False)
    return len(values) == len(others) and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and abs(a - b) <= 1e-6 * abs(a)) for a, b in pairs
    )


def _other_numbers_envi(before: bytes, after: bytes) -> str:
    """Numbers of the kinds that stand for themselves, as many as before and all of them numbers."""
    old, new = (_envi_entries(content.decode("latin-1")) for content in (before, after))
    changed = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    for key in changed:
        pieces = [text.get(key, "").strip("{}").split(",") for text in (old, new)]
        if key not in _ENVI_NUMBERS or len(pieces[0]) != len(pieces[1]):
            return ""
        for text, other in zip(*pieces, strict=True):
            if text != other and not np.isfinite(float(other)):
                return ""
    return f"another number in {changed[0]}, without a checksum" if changed else ""


def _envi_entries(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if sign and entries.get(key, "").count("{") == entries.get(key, "").count("}"):
            key = name.strip().lower()
            entries[key] = value.strip()
        elif key:
            entries[key] += line.strip()
    return entries


def _other_numbers_xml(before: bytes, after: bytes) -> str:
    old, new = (list(ElementTree.fromstring(content).iter()) for content in (before, after))
    if [element.tag for element in old] != [element.tag for element in new]:
        return ""
    changed = [a.tag for a, b in zip(old, new, strict=True) if (a.text, a.attrib) != (b.text, b.attrib)]
    return f"another value of {changed[0].rpartition('}')[2]}, and checksums were not wanted" if changed else ""
