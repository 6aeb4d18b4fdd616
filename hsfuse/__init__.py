"""hsfuse: fuse PRISMA and Sentinel-2 into one georeferenced 10 m hyperspectral cube.

===================  ==============================================================================
``open``             a product or a fused cube as an xarray Dataset that reads what is looked at
``fuse_scene``       products in, a georeferenced cube out: what ``hsfuse run`` does
``fuse``             aligned arrays or DataArrays in, a cube out
``report``           the report of a cube; a notebook shows it
``RunResult``        what ``fuse_scene`` returns
``Resources``        what a function may use of the machine: device, threads, memory
``HsfuseError``      base of all errors, each with a hint
===================  ==============================================================================

For example::

    import hsfuse

    ds = hsfuse.open("prisma.he5")
    ds.reflectance.sel(wavelength=850, method="nearest").plot()
    result = hsfuse.fuse_scene("prisma.he5", "s2.SAFE", "out.tif", method="glp")
    cube = hsfuse.fuse(hsi, msi, ratio=3, method="glp", wavelengths_nm=nm)

Importing hsfuse changes nothing in the process, and its functions leave it as they found it: environment, torch's
threads, allocator, warnings, signals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hsfuse._version import __version__

if TYPE_CHECKING:
    from hsfuse.errors import HsfuseError
    from hsfuse.resources import Resources
    from hsfuse.workflows.fuse_arrays import fuse
    from hsfuse.workflows.python.dataset import open
    from hsfuse.workflows.python.report import report
    from hsfuse.workflows.run import RunResult, fuse_scene

__all__ = [
    "HsfuseError", "Resources", "RunResult", "__version__", "fuse", "fuse_scene", "open", "report",
]  # fmt: skip

_LAZY = {
    "HsfuseError": "hsfuse.errors",
    "Resources": "hsfuse.resources",
    "RunResult": "hsfuse.workflows.run_result",
    "fuse": "hsfuse.workflows.fuse_arrays",
    "fuse_scene": "hsfuse.workflows.run",
    "open": "hsfuse.workflows.python.dataset",
    "report": "hsfuse.workflows.python.report",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hsfuse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
