"""Products on disk: resumable, in any format of the registry, and never half finished under their final name."""

from hsfuse.writers.base import (
    OutputPlan,
    WriteOptions,
    WrittenProduct,
    check_destination,
    check_output,
    journal_folder,
    sidecar_paths,
)
from hsfuse.writers.cube_writer import CubeWriter
from hsfuse.writers.earlier_run import check_resumable, earlier_identity
from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.format import (
    FORMATS,
    BuildOptions,
    CubeContent,
    CubeReader,
    DiskNeed,
    FormatEntry,
    read_identity,
    resolve_format,
)
from hsfuse.writers.journal import StoredRows
from hsfuse.writers.layers import DATE_MAP, LayerBand, LayerFile, write_layer
from hsfuse.writers.place import ReportFiles
from hsfuse.writers.provenance import (
    InputIdentity,
    file_hash,
    input_identity,
    provenance_record,
    run_identity,
)

__all__ = [
    "DATE_MAP",
    "FORMATS",
    "BuildOptions",
    "CubeContent",
    "CubeReader",
    "CubeWriter",
    "DiskNeed",
    "FormatEntry",
    "InputIdentity",
    "LayerBand",
    "LayerFile",
    "OutputPlan",
    "ReportFiles",
    "SampleEncoding",
    "StoredRows",
    "WriteOptions",
    "WrittenProduct",
    "check_destination",
    "check_output",
    "check_resumable",
    "earlier_identity",
    "file_hash",
    "input_identity",
    "journal_folder",
    "provenance_record",
    "read_identity",
    "resolve_format",
    "run_identity",
    "sidecar_paths",
    "write_layer",
]
