"""One scene of a batch as a value that travels between processes and machines as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hsfuse.config import RunConfig
from hsfuse.errors import InputError, UsageError
from hsfuse.writers.format import FORMATS, resolve_format

_AUTOMATIC_SUFFIX = ".tif"


@dataclass(frozen=True)
class SceneJob:
    """What has to be done for one scene.

    Attributes
    ----------
    name
        Unique in the batch: the output without suffix, relative to the batch's folder where it lies inside.
    hsi, msi
        Inputs, absolute paths.
    output
        The cube, absolute path.
    settings
        Settings of :class:`~hsfuse.config.RunConfig` that were given.
    pixels
        Pixels of the hyperspectral image: how much work the scene is.
    days_apart, cloud_percent, coverage
        How well the images fit: time between them, cloud of the MSI, covered share of the HSI; None: unknown.
    """

    name: str
    hsi: str
    msi: tuple[str, ...]
    output: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    pixels: int = 0
    days_apart: float | None = None
    cloud_percent: float | None = None
    coverage: float | None = None

    @property
    def config(self) -> RunConfig:
        """The run's configuration.

        Raises
        ------
        UsageError
            A setting is wrong.
        """
        return RunConfig.resolve(None, **self.settings)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All inputs, the hyperspectral product first."""
        return (Path(self.hsi), *map(Path, self.msi))

    def to_json(self) -> str:
        """Text for :meth:`from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SceneJob:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"msi": tuple(values["msi"])})


@dataclass(frozen=True)
class Attempt:
    """How a scene is tried.

    Attributes
    ----------
    number
        1 for the first.
    replace
        Make the cube anew instead of going on with what is there.
    tile
        Tile side in MSI pixels over the settings' one; set after the memory ran out.
    alone
        Run while no other scene does, with all the memory.
    batch, planned
        Name of the batch, and when it was planned: what another batch has finished since need not be made again.
    """

    number: int = 1
    replace: bool = False
    tile: int | None = None
    alone: bool = False
    batch: str = field(default="", compare=False)
    planned: str = field(default="", compare=False)


@dataclass(frozen=True)
class Share:
    """What of the machine a scene may use.

    Attributes
    ----------
    threads
        CPU threads.
    memory
        Bytes of host memory; None: what the run's own rule gives.
    gpu
        Number of the only GPU that the scene sees; None: as the process sees them.
    """

    threads: int
    memory: int | None = None
    gpu: str | None = None


Action = Literal["run", "done", "outdated", "failed before", "unpaired", "unreadable"]


@dataclass(frozen=True)
class PlanEntry:
    """A scene and what will happen to it.

    Attributes
    ----------
    name, hsi
        The scene and its hyperspectral product.
    action
        ``run``: will run; ``done``: finished before; ``outdated``: its cube came from other inputs, settings or
        another version; ``failed before``: would fail again; ``unpaired``: no Sentinel-2 image fits;
        ``unreadable``: the hyperspectral product cannot be read.
    reason
        Why, in one sentence; empty for scenes that run for the first time.
    job
        None for scenes that are unpaired or unreadable.
    exit_code
        That of the failure.
    replace
        Whether an existing cube is made anew.
    """

    name: str
    hsi: str
    action: Action
    reason: str = ""
    job: SceneJob | None = None
    exit_code: int = 0
    replace: bool = False


def product_stem(path: Path) -> str:
    """Name of a product without the suffixes of its file."""
    name = path.name
    for suffix in (".zip", ".he5", ".SAFE"):
        name = name.removesuffix(suffix)
    return name if name != path.name else path.stem


def output_path(folder: Path, wanted: str, hsi: Path, settings: Mapping[str, Any]) -> Path:
    """Where a scene's cube goes: ``wanted`` below ``folder``, or the product's name with the format's suffix.

    Raises
    ------
    UsageError
        Name and format contradict each other, or there is no such format.
    """
    file_format = str(settings.get("format", "auto"))
    if wanted:
        path = folder / wanted
        resolve_format(path, file_format)
        return path
    suffix = _AUTOMATIC_SUFFIX if file_format == "auto" else FORMATS.get(file_format).suffixes[0]
    return folder / (product_stem(hsi) + suffix)


def scene_name(folder: Path, output: Path) -> str:
    """Name of the scene whose cube is ``output``."""
    try:
        inside = output.relative_to(folder)
    except ValueError:
        inside = output
    return inside.with_suffix("").as_posix()


def check_outputs(jobs: list[tuple[str, Path, Path]], folder: Path, input_folders: list[Path]) -> None:
    """Make sure that no two scenes write the same file and that none writes into what is read.

    Parameters
    ----------
    jobs
        (origin of the scene, hyperspectral product, output).
    folder
        The batch's folder.
    input_folders
        Folders that are searched for products, and products that are folders.

    Raises
    ------
    UsageError
        Two outputs are one file, or an output lies inside an input folder or is an input.
    """
    taken: dict[Path, tuple[str, Path]] = {}
    for origin, hsi, output in jobs:
        resolved = output.resolve()
        # Files beside the cube are named after its stem, so that one.tif and one.img collide too.
        key = resolved.with_suffix("")
        if key in taken:
            first_origin, first = taken[key]
            raise UsageError(
                f"Two scenes would write {output}: {first} ({first_origin}) and {hsi} ({origin}).",
                hint="Give them outputs of their own in a manifest (columns hsi, s2, output).",
            )
        taken[key] = (origin, hsi)
        if resolved == hsi.resolve():
            raise UsageError(f"The output {output} is the scene's own input.", hint="Choose another folder with -o.")
    outputs = [folder.resolve(), *(output.resolve() for _, _, output in jobs)]
    for source in dict.fromkeys(item.resolve() for item in input_folders):
        for output in outputs:
            if source == output or source in output.parents:
                raise UsageError(
                    f"The output {output} lies inside the input folder {source}.",
                    hint="Choose a folder beside the inputs: cubes there would be taken for inputs the next time.",
                )


def check_inputs_exist(job: SceneJob) -> None:
    """Raise InputError for the first input that is not there."""
    for path in job.inputs:
        if not path.exists():
            raise InputError(f"There is no {path} on this machine.", hint="Check that all machines mount the folder.")
