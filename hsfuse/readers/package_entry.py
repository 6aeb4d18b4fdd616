"""The entry of a reader of packages: EnMAP and DESIS differ in their metadata only."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.entry import OpenOptions, ReaderEntry
from hsfuse.readers.package import ProductPackage, is_package_folder, package_confidence


def package_reader(name: str, mission: str, mark: bytes, summary: str) -> ReaderEntry:
    """Make the entry of a reader of packages.

    Parameters
    ----------
    name
        Name of the entry, and of the folder in :mod:`hsfuse.readers` whose module ``metadata`` has ``read_facts``.
    mission
        What messages and file names call the mission.
    mark
        What stands in the first kilobytes of the metadata file.
    summary
        What the reader reads.
    """

    def open_package(path: Path, options: OpenOptions) -> HyperspectralProduct:
        # Libraries that read images take a moment to load, and other products need none of them.
        from hsfuse.readers.ortho_cube import OrthoCube

        package = ProductPackage(path, mission)
        try:
            facts = import_module(f"hsfuse.readers.{name}.metadata").read_facts(package)
        except BaseException:
            package.close()
            raise
        return OrthoCube(package, facts, cut_nm=options.cut_nm)

    return ReaderEntry(
        name=name,
        summary=summary,
        roles=frozenset({"hsi"}),
        probe=lambda path: package_confidence(path, mark, mission),
        open=open_package,
        is_folder_product=lambda folder: is_package_folder(folder, mark),
    )
