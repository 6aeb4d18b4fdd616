"""Whether a network takes a scene."""

from __future__ import annotations

import numpy as np

from hsfuse.errors import UsageError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.nets.band_matching import half_spacing
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.registry import fallback_method


def check_scene(header: NetworkHeader, context: FusionContext) -> None:
    """Compare a scene with what the weights were trained for.

    Raises
    ------
    UsageError
        Bands or ratio are others.
    """
    name = header.name
    hint = f"Let the network choose the bands (no --bands), or use --method {fallback_method()}."
    wanted = np.asarray(header.centre_nm)
    if wanted.size:
        if context.centre_nm.size != wanted.size:
            raise UsageError(
                f"The network '{name}' takes {wanted.size} bands, the scene brings {context.centre_nm.size}.", hint=hint
            )
        off = np.abs(wanted - context.centre_nm)
        if np.any(off > half_spacing(wanted)):
            worst = int(off.argmax())
            raise UsageError(
                f"Band {worst + 1} lies at {context.centre_nm[worst]:.1f} nm, where the network '{name}' expects "
                f"{wanted[worst]:.1f} nm.",
                hint=hint,
            )
    if header.ratios and context.ratio not in header.ratios:
        trained = ", ".join(map(str, header.ratios))
        raise UsageError(
            f"The network '{name}' was trained for a ratio of {trained}, the scene needs {context.ratio}.",
            hint=f"Use --method {fallback_method()}, or train a network for this ratio.",
        )
