"""hsfuse: fuse PRISMA and Sentinel-2 into one georeferenced 10 m hyperspectral cube.

The functions below are the commands of the same names::

    import hsfuse

    result = hsfuse.fuse_scene("prisma.he5", "s2.SAFE", "out.tif", method="glp")
    cube = hsfuse.fuse(hsi, msi, ratio=3, method="glp", wavelengths_nm=nm)

What they may use of the machine is handed in as :class:`hsfuse.Resources`. Importing hsfuse changes nothing in the
process, and its functions leave it as they found it: environment, torch's threads, allocator, warnings, signals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hsfuse._version import __version__

if TYPE_CHECKING:
    from hsfuse.resources import Resources
    from hsfuse.workflows.fuse_arrays import fuse
    from hsfuse.workflows.run import fuse_scene

__all__ = ["Resources", "__version__", "fuse", "fuse_scene"]

_LAZY = {"Resources": "hsfuse.resources", "fuse": "hsfuse.workflows.fuse_arrays", "fuse_scene": "hsfuse.workflows.run"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hsfuse' has no attribute '{name}'")
