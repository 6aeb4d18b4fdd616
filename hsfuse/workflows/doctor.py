"""Is everything in place? Versions, drivers, GPU, compiled kernels, environment."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from importlib import metadata
from typing import Any

from hsfuse import process
from hsfuse._version import __version__
from hsfuse.inference.budget import available_memory
from hsfuse.native import image, match
from hsfuse.processor import usable_cores
from hsfuse.workflows.gpu_diagnosis import diagnose_gpus

_LIBRARIES = ("numpy", "scipy", "torch", "rasterio", "pyproj", "h5py", "safetensors", "pydantic", "typer", "matplotlib")
_OPTIONAL = ("mamba_ssm", "causal_conv1d", "triton", "dask", "tensorboard")
_DRIVERS = ("GTiff", "COG", "ENVI", "JP2OpenJPEG")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None


def diagnose() -> dict[str, Any]:
    """Return what was found; ``problems`` keep hsfuse, or a card, from working, ``notes`` make it slower."""
    problems: list[str] = []
    notes: list[str] = []
    versions = {name: _version(name) for name in _LIBRARIES}
    problems += [f"{name} is not installed" for name, version in versions.items() if version is None]
    facts: dict[str, Any] = {
        "hsfuse": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": usable_cores(),
        "free_memory_bytes": available_memory(),
        "libraries": versions,
        "optional": {name: _version(name) for name in _OPTIONAL if importlib.util.find_spec(name)},
        "compiler": next((path for c in ("cc", "gcc", "clang") if (path := shutil.which(c))), None),
        "dropped_variables": dict(process.dropped_variables),
    }
    facts["gdal"] = _gdal(problems)
    facts["torch"] = _torch(problems, notes)
    facts["mamba2"] = _mamba_backend()
    facts["image_kernels"] = image.KERNELS.status()
    facts["match_kernels"] = match.KERNELS.status()
    facts["notes"] = notes
    facts["problems"] = problems
    return facts


def _gdal(problems: list[str]) -> dict[str, Any]:
    import rasterio
    from rasterio.crs import CRS
    from rasterio.drivers import is_blacklisted
    from rasterio.env import GDALVersion
    from rasterio.errors import CRSError

    with rasterio.Env() as env:
        drivers = env.drivers()
    absent = [name for name in _DRIVERS if name not in drivers or is_blacklisted(name, "r")]
    problems += [f"rasterio's GDAL lacks the {name} driver" for name in absent]
    try:
        CRS.from_epsg(32632).to_wkt()
    except CRSError as error:
        problems.append(f"PROJ finds no database of reference systems ({error})")
    return {"version": str(GDALVersion.runtime()), "drivers": [d for d in _DRIVERS if d in drivers],
            "cache_mb": os.environ.get("GDAL_CACHEMAX")}  # fmt: skip


def _torch(problems: list[str], notes: list[str]) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch cannot be imported ({error})")
        return {}
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": diagnose_gpus(problems, notes),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _mamba_backend() -> str:
    """Which implementation of the Mamba-2 block is active on the CPU."""
    try:
        native = importlib.import_module("hsfuse.fusion.nets.native")
    except ImportError:
        return "plain PyTorch"
    return str(native.native_status())


def diagnosis_text(facts: dict[str, Any]) -> str:
    """Lay out the findings for reading."""
    torch_facts = facts["torch"]
    gpus = ", ".join(
        f"{g['name']} ({(g['free_bytes'] or 0) / 1e9:.0f} of {g['memory_bytes'] / 1e9:.0f} GB free)"
        for g in torch_facts.get("gpus", [])
    )
    lines = [
        f"hsfuse {facts['hsfuse']}, Python {facts['python']}, {facts['platform']}",
        f"cores     {facts['cores']}, free memory {facts['free_memory_bytes'] / 1e9:.1f} GB",
        "libraries " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in facts["libraries"].items()),
        "optional  " + (", ".join(f"{n} {v}" for n, v in facts["optional"].items()) or "none"),
        f"GDAL      {facts['gdal']['version']} with {', '.join(facts['gdal']['drivers'])};"
        f" cache {facts['gdal']['cache_mb']} MB",
        f"GPU       {gpus or 'none'}; CPU instructions {torch_facts.get('cpu_capability', 'unknown')}",
        f"Mamba-2   {facts['mamba2']}",
        f"images    {facts['image_kernels']}",
        f"matching  {facts['match_kernels']}",
    ]
    for name, value in facts["dropped_variables"].items():
        lines.append(f"note      {name}={value} belongs to another GDAL or PROJ and is ignored")
    lines += [f"note      {text}" for text in facts["notes"]]
    lines += [f"PROBLEM   {text}" for text in facts["problems"]]
    lines.append("all is well" if not facts["problems"] else f"{len(facts['problems'])} problem(s)")
    return "\n".join(lines)
