"""Open what the hyperspectral image is fused with: Sentinel-2, its own panchromatic image, or both.

No more is imported here than opening takes: images are decoded from then on, while the rest is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hsfuse.config import RunConfig
from hsfuse.errors import InputError, UsageError
from hsfuse.readers import open_msi
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.choose import choose_reader, likely_role
from hsfuse.readers.source_dates import DateWish


def open_guide(
    hsi: HyperspectralProduct, msi_paths: Sequence[Path], config: RunConfig, stack: ExitStack, *, dates: DateWish
) -> MultispectralProduct:
    """Open the guide; ``stack`` closes it, and ``dates`` says which ones of an archive are wanted.

    Raises
    ------
    InputError, OverlapError, UsageError
        It cannot be read or was not given, or the product brings no panchromatic image.
    """
    if config.guide == "pan":
        if msi_paths:
            raise UsageError(
                f"--guide pan takes the panchromatic image of {hsi.info.name} itself and no other image"
                f" ({msi_paths[0].name} was given).",
                hint="Leave it out, or use --guide pan+s2. A panchromatic raster is given as the MSI, without --guide.",
            )
        return own_panchromatic(hsi, stack)
    if not msi_paths:
        raise UsageError(
            "No Sentinel-2 product was given.",
            hint="Give one after the hyperspectral product, or use its own panchromatic image: --guide pan.",
        )
    # The guide of the product itself is the quicker one to be missing.
    pan = own_panchromatic(hsi, stack) if config.guide == "pan+s2" else None
    msi = open_msi(
        list(msi_paths), bands=config.s2_bands, target=hsi.grid, verify=config.verify, threads=config.threads,
        dates=dates,
    )  # fmt: skip
    stack.callback(msi.close)
    if pan is None:
        return msi
    from hsfuse.inference.joined_guide import JoinedGuide

    return JoinedGuide(msi, pan)


def brings_panchromatic(path: Path) -> bool:
    """Whether a file is of a kind that brings a panchromatic image; arrays in ``.npz`` files are no products."""
    if path.suffix.lower() == ".npz" or likely_role(path) != "hsi":
        return False
    return "pan" in choose_reader(path, "hsi").roles


def own_panchromatic(hsi: HyperspectralProduct, stack: ExitStack) -> MultispectralProduct:
    """Open the panchromatic image of a product.

    Raises
    ------
    InputError, OverlapError
        It has none, or none that can be used.
    """
    pan = hsi.panchromatic()
    if pan is None:
        raise InputError(
            f"{hsi.info.name} brings no panchromatic image.",
            hint="Use Sentinel-2 as the guide (--guide s2), or order the product with its panchromatic image.",
        )
    stack.callback(pan.close)
    return pan
