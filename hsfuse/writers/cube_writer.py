"""Rows in, a finished cube out: the only class through which hsfuse writes products."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hsfuse._version import __version__
from hsfuse.errors import OutputError
from hsfuse.grid import Grid
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress
from hsfuse.spectral import BandTable
from hsfuse.writers import stac
from hsfuse.writers.band_metadata import CubeMetadata
from hsfuse.writers.base import (
    OutputPlan,
    WriteOptions,
    WrittenProduct,
    check_output,
    journal_folder,
)
from hsfuse.writers.building import BuildingBeside
from hsfuse.writers.earlier_run import another_finished_run
from hsfuse.writers.encoding import RowSource, SampleEncoding
from hsfuse.writers.format import BuildOptions, CubeContent, read_identity
from hsfuse.writers.journal import Journal, StoredRows, has_rows, remove_journal
from hsfuse.writers.place import stac_path, stale_files
from hsfuse.writers.provenance import plain_record
from hsfuse.writers.publish import STAGE_NAME, complete_interrupted, publish
from hsfuse.writers.storage import reached, remove, size_of, storage_errors

_log = get_logger(__name__)


class CubeWriter:
    """Writes one cube from top to bottom; a context manager.

    Rows go to a journal beside the output (``<path>.part/``) and are safe when :meth:`write_rows` returns.
    :meth:`finish` builds the product from the journal and moves it to its final name in one step, so a file with
    that name is always complete. Leaving the context by an exception keeps the journal for ``--resume``.
    :meth:`build_beside` lets a thread build the product while rows are still made.

    Parameters
    ----------
    path
        Final file.
    grid, bands
        Where the pixels lie and which bands they hold.
    options
        Format, sample type, compression; what to do about existing files.
    identity
        Hash that equal runs share (see :func:`hsfuse.writers.provenance.run_identity`); an interrupted run is
        only continued by one with the same identity, grid, bands and type.
    provenance
        JSON-serialisable record that is stored in the product; must be equal for equal runs.
    description, sensor, acquired
        Shown by viewers; acquisition time of the hyperspectral product.
    bad_bands
        Indices of bands to flag as bad besides those that ``bands`` marks.
    threads
        Threads of the final compression; all cores when None.
    plan
        How this machine would work, for instance in tiles; see :attr:`plan_to_keep`.
    layers
        What writes each of ``options.layers`` to a path, by the layer's key; called when the cube is built.

    Raises
    ------
    UsageError
        The file name and the format contradict each other.
    OutputError
        The output exists, its folder is missing or not writable, the disk is too small, or (``resume``) the
        interrupted run was another one.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        bands: BandTable,
        options: WriteOptions,
        *,
        identity: str,
        provenance: Mapping[str, Any],
        description: str = "",
        sensor: str = "",
        acquired: datetime | None = None,
        bad_bands: Iterable[int] | None = None,
        threads: int | None = None,
        plan: Mapping[str, Any] | None = None,
        layers: Mapping[str, Callable[[Path], None]] | None = None,
    ) -> None:
        self.path = Path(path)
        self.grid = grid
        self.options = options
        self.plan: OutputPlan = check_output(self.path, grid, len(bands), options)
        record = plain_record(provenance)
        self.metadata = CubeMetadata.make(
            bands,
            bad_bands=bad_bands,
            description=description,
            sensor=sensor,
            acquired=acquired,
            identity=identity,
            provenance=record,
        )
        self.encoding = SampleEncoding.of(options.dtype)
        self._threads = threads
        self._layers = dict(layers or {})
        self._product = self._finished_before()
        self._building: BuildingBeside | None = None
        self._journal: Journal | None = None
        if self._product is None:
            with storage_errors(self.path):
                self._journal = Journal(
                    journal_folder(self.path),
                    (len(bands), grid.height, grid.width),
                    self.encoding,
                    self._facts(),
                    record=record,
                    resume=options.resume,
                    plan=plan,
                )
            # A continued run gives the first run's product: its record may differ in how, not in what.
            self.metadata = replace(self.metadata, provenance=self._journal.record)
            if options.resume:
                _log.info("%s: going on at row %d of %d", self.path.name, self.rows_done, grid.height)

    @property
    def plan_to_keep(self) -> dict[str, Any]:
        """Plan that the remaining rows have to follow: that of the run which made the first ones."""
        return {} if self._journal is None else dict(self._journal.plan)

    def change_plan(self, plan: Mapping[str, Any]) -> None:
        """Let the rows that follow have another plan, also for a run that goes on with them."""
        if self._journal is not None:
            self._journal.plan = dict(plan)

    def stored_rows(self) -> StoredRows | None:
        """Return a reader of the rows, which waits for those to come; None for a finished product.

        It works while and after :meth:`finish`.
        """
        return None if self._journal is None else self._journal.view()

    def build_beside(self) -> None:
        """Begin to build the product while rows are made, where its format can follow them.

        The bytes are those of a product that is built afterwards. :meth:`finish` waits for it, :meth:`close` gives it
        up; a process that is killed leaves what was built in the journal's folder, which the next one discards.
        """
        journal = self._journal
        if journal is None or self._building is not None or not self.plan.format.follows_rows:
            return

        def build(rows: RowSource, advance: Callable[[float], None]) -> None:
            with storage_errors(self.path):
                self._build(journal, rows, advance)

        self._building = BuildingBeside(build, journal)

    def give_up(self) -> None:
        """Say that no further rows come: whoever waits for them, in other threads, ends with an error."""
        if self._journal is not None:
            self._journal.give_up()

    @property
    def rows_done(self) -> int:
        """Rows that are safe on the disk: where to go on (0 on a fresh run, all when nothing is left to do)."""
        return self.grid.height if self._journal is None else self._journal.rows_done

    def write_rows(self, row0: int, data: NDArray[Any]) -> None:
        """Store the next rows.

        Parameters
        ----------
        row0
            First row; must be :attr:`rows_done`.
        data
            Reflectance, float32, NaN = no data, or samples that :attr:`encoding` has turned into stored integers;
            shape (band, rows, col).

        Raises
        ------
        OutputError
            The rows do not follow or do not fit, or the disk is full.
        """
        if self._journal is None:
            raise OutputError(f"The output {self.path} is finished already.")
        with storage_errors(self.path):
            self._journal.append(row0, data)

    def read_rows(self, row0: int, rows: int, bands: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Read back reflectance, before or after :meth:`finish`: float32 (band, rows, col), NaN = no data."""
        if self._journal is None:
            if self._product is None:
                raise OutputError(f"The output {self.path} is closed.")
            return self._product.read_rows(row0, rows, bands)
        with storage_errors(self.path):
            if bands is None:
                return self.encoding.decode(self._journal.read(row0, rows))
            pieces = [self._journal.read(row0, rows, int(band), int(band) + 1) for band in bands]
        return self.encoding.decode(np.concatenate(pieces))

    def finish(self, progress: Progress | None = None, built: Callable[[], None] | None = None) -> WrittenProduct:
        """Build the product, give it its final name and remove the journal.

        ``built`` is called in between: what follows waits for the disk.

        Raises
        ------
        OutputError
            Rows are missing, or the disk is full; the journal stays and the final name is untouched.
        """
        if self._journal is None:
            if self._product is None:
                raise OutputError(f"The output {self.path} is closed.")
            return self._product
        if not self._journal.complete:
            raise OutputError(
                f"The output {self.path} is not complete: {self.rows_done} of {self.grid.height} rows were written."
            )
        with storage_errors(self.path), (progress or SilentProgress()).stage("write", self.grid.height) as stage:
            building, self._building = self._building, None
            if building is None or not building.finish(stage.advance):
                self._build(self._journal, self._journal, stage.advance)
            if built is not None:
                built()
            self._publish(self._journal)
        self._journal = None
        self._product = WrittenProduct(self.path, self.plan.sidecars, size_of(self.path), self.plan.format)
        _log.info("wrote %s (%.1f MB)", self.path, self._product.bytes / 1e6)
        return self._product

    def close(self) -> None:
        """Release files and lock without finishing; the rows stay for ``--resume``, an empty journal does not."""
        if self._journal is None:
            return
        journal, self._journal = self._journal, None
        building, self._building = self._building, None
        if building is not None:
            building.give_up()
        if journal.rows_done == 0:
            # Runs while another error is on its way up; a folder that stays behind must not hide it.
            with contextlib.suppress(OSError):
                journal.remove()
            return
        journal.close()
        _log.warning(
            "%s is unfinished: %d of %d rows are kept in %s; the same command with --resume goes on there",
            self.path.name, journal.rows_done, self.grid.height, journal.folder,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _facts(self) -> dict[str, Any]:
        """What two runs must share for one to continue the other."""
        bands, grid = self.metadata.bands, self.grid
        return {
            "identity": self.metadata.identity,
            "version": __version__,
            "reference system": grid.crs.to_wkt(),
            "grid": [*tuple(grid.transform)[:6], grid.height, grid.width],
            "bands": [[float(c), float(f)] for c, f in zip(bands.centre_nm, bands.fwhm_nm, strict=True)],
        }

    def _finished_before(self) -> WrittenProduct | None:
        """The product of the same run, when ``resume`` finds it complete."""
        journal = journal_folder(self.path)
        complete_interrupted(journal)
        if not (self.options.resume and self.path.exists()):
            return None
        same = bool(self.metadata.identity) and read_identity(self.path, self.plan.format) == self.metadata.identity
        if self.options.overwrite and not (same and not has_rows(journal)):
            # Its replacement was interrupted, or is about to begin.
            return None
        if not same:
            raise another_finished_run(self.path)
        _log.info("%s is complete already", self.path)
        # A kill between the final rename and the clean-up leaves the journal behind.
        if journal.is_dir():
            remove_journal(journal)
        sidecars = tuple(item for item in self.plan.sidecars if item.exists())
        return WrittenProduct(self.path, sidecars, size_of(self.path), self.plan.format)

    def _build(self, journal: Journal, rows: RowSource, advance: Callable[[float], None]) -> None:
        """Make product, companions, layers and STAC item inside the journal's folder."""
        entry, stage = self.plan.format, journal.folder / STAGE_NAME
        remove(stage)
        stage.mkdir()
        content = CubeContent(rows, self.metadata, self.grid, self.encoding)
        compress = self.options.compress if entry.compressions else "none"
        try:
            entry.build(content, stage / self.path.name, BuildOptions(compress, self._threads, advance))
            for layer in self.options.layers:
                self._layers[layer.key](stage / layer.path(self.path).name)
            item = stac.stac_item(self.path, self.metadata, self.grid, self.encoding, entry, self.options.layers)
            (stage / stac_path(self.path).name).write_text(stac.stac_text(item), encoding="utf-8")
            for made, final in self.options.beside:
                # A copy: should this publication be cut off before it is decided, the next one needs the file again.
                shutil.copyfile(made, stage / final.name)
        except BaseException:
            # The rows are safe in the journal; a broken product would only keep the disk full.
            remove(stage)
            raise
        reached("product built")

    def _publish(self, journal: Journal) -> None:
        """Give the files their final names, the cube last: when it is there, everything is."""
        stale = stale_files(self.path, self.options.report) if self.options.overwrite else []
        stale += [*self.options.stale, *(made for made, _ in self.options.beside)]
        names = [item.relative_to(self.path.parent).as_posix() for item in stale]
        beside = [*self.plan.sidecars, *(final for _, final in self.options.beside)]
        publish(journal.folder, [*(item.name for item in beside), self.path.name], names)
        journal.remove()
        reached("journal removed")
