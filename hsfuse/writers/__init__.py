"""Products on disk: GeoTIFF, COG and ENVI, resumable and never half finished under their final name."""

from hsfuse.writers.base import (
    OutputPlan,
    WriteOptions,
    WrittenProduct,
    check_output,
    journal_folder,
    resolve_format,
    sidecar_paths,
)
from hsfuse.writers.cube_writer import CubeWriter, read_identity
from hsfuse.writers.encoding import SampleEncoding, read_rows
from hsfuse.writers.journal import StoredRows
from hsfuse.writers.provenance import (
    InputIdentity,
    file_hash,
    input_identity,
    provenance_record,
    run_identity,
)

__all__ = [
    "CubeWriter",
    "InputIdentity",
    "OutputPlan",
    "SampleEncoding",
    "StoredRows",
    "WriteOptions",
    "WrittenProduct",
    "check_output",
    "file_hash",
    "input_identity",
    "journal_folder",
    "provenance_record",
    "read_identity",
    "read_rows",
    "resolve_format",
    "run_identity",
    "sidecar_paths",
]
