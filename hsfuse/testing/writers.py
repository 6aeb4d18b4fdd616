"""What an output format promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hsfuse.grid import Slice2D
from hsfuse.outputs import read_json
from hsfuse.testing.expect import expect
from hsfuse.testing.scene import SmallScene, small_scene
from hsfuse.writers import CubeWriter, FormatEntry, SampleEncoding, WriteOptions, journal_folder, read_identity
from hsfuse.writers.place import stac_path

_IDENTITY = "0123456789abcdef"


def check_writer(entry: FormatEntry, folder: Path, scene: SmallScene | None = None) -> None:
    """Check an installed output format: what is written is read back, equal cubes give equal bytes, runs resume.

    Parameters
    ----------
    entry
        The format; it has to be found by its name in the registry.
    folder
        Empty folder to write into.
    scene
        What is written; None: the truth of :func:`small_scene`.

    Raises
    ------
    AssertionError
        A promise is broken.
    """
    scene = scene or small_scene()
    cube = scene.truth.copy()
    cube[:, :5, :7] = np.nan
    name = f"cube{entry.suffixes[0]}"
    for part in ("one", "two"):
        (folder / part).mkdir()
    first, second = folder / "one" / name, folder / "two" / name
    _write(first, scene, cube, format=entry.name)
    expect(first.is_dir() == entry.is_folder, f"{entry.name} says is_folder={entry.is_folder}, but it is otherwise.")
    expect(read_identity(first, entry) == _IDENTITY, f"{entry.name} does not give the identity back.")
    encoding = SampleEncoding.of("int16")
    stored = encoding.decode(encoding.encode(cube))
    with entry.open(first) as reader:
        expect(reader.shape == cube.shape, f"{entry.name} gives back the shape {reader.shape}, not {cube.shape}.")
        block = Slice2D(3, 40, 4, 31)
        np.testing.assert_allclose(reader.read([2, 0], block), stored[([2, 0], *block.slices)], atol=1e-6)
        np.testing.assert_allclose(reader.read(None, block), stored[(slice(None), *block.slices)], atol=1e-6)
        small = reader.read([0], Slice2D(10, 40, 10, 30), (3, 2))
        expect(small.shape == (1, 3, 2), f"{entry.name} reads decimated to {small.shape}, not (1, 3, 2).")
    item = read_json(stac_path(first))
    expect(item.get("type") == "Feature", f"{entry.name} has no STAC item beside it.")
    # Interrupted after some rows, then gone on with: the bytes are those of a run that was left alone.
    _write(second, scene, cube, rows=20, format=entry.name)
    expect(journal_folder(second).is_dir(), "An interrupted run leaves no journal.")
    _write(second, scene, cube, format=entry.name, resume=True)
    expect(_bytes(folder / "one") == _bytes(folder / "two"), f"{entry.name} gives other bytes for an equal cube.")
    _write(second, scene, cube, format=entry.name, overwrite=True)
    expect(_bytes(folder / "one") == _bytes(folder / "two"), f"{entry.name} cannot replace its own product.")


def _write(path: Path, scene: SmallScene, cube: np.ndarray, rows: int | None = None, **options: Any) -> None:
    with CubeWriter(
        path, scene.fine_grid, scene.bands, WriteOptions(**options), identity=_IDENTITY, provenance={"method": "none"},
        description="A cube to check a format with", sensor="none", threads=1,
    ) as writer:  # fmt: skip
        last = cube.shape[1] if rows is None else rows
        writer.write_rows(writer.rows_done, cube[:, writer.rows_done : last])
        if rows is None:
            writer.finish()


def _bytes(folder: Path) -> dict[str, bytes]:
    return {item.relative_to(folder).as_posix(): item.read_bytes() for item in folder.rglob("*") if item.is_file()}
