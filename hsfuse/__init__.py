"""hsfuse: fuse PRISMA and Sentinel-2 into one georeferenced 10 m hyperspectral cube."""

from hsfuse._version import __version__

__all__ = ["__version__"]
