"""Co-registration: a smooth displacement field with an error that was measured, and one resampling."""

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult, SwirShift, TiePoints

__all__ = [
    "CoregistrationResult",
    "DisplacementField",
    "SwirShift",
    "TiePoints",
    "coregister_products",
    "measure_swir",
]


def __getattr__(name: str) -> object:
    # The matching needs torch, whose import takes a second: it is loaded when it is used.
    if name == "coregister_products":
        from hsfuse.coregister.products import coregister_products

        return coregister_products
    if name == "measure_swir":
        from hsfuse.coregister.swir import measure_swir

        return measure_swir
    raise AttributeError(f"module 'hsfuse.coregister' has no attribute '{name}'")
