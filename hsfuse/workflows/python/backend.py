"""``xarray.open_dataset(path, engine="hsfuse")``: what :func:`hsfuse.open` does, under xarray's own name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from xarray.backends import BackendEntrypoint

from hsfuse.readers.overlap import DEFAULT_CUT_NM
from hsfuse.workflows.python.dataset import open as open_dataset

if TYPE_CHECKING:
    import xarray as xr


class HsfuseBackend(BackendEntrypoint):
    """xarray's face of hsfuse's readers; used only where it is named."""

    description = "PRISMA, EnMAP, DESIS, EMIT, Sentinel-2 and fused cubes, through hsfuse"
    url = "https://pypi.org/project/hsfuse"

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        role: Literal["hsi", "msi"] | None = None,
        s2_bands: Literal["10m", "all"] = "10m",
        vnir_swir_cut_nm: float = DEFAULT_CUT_NM,
    ) -> xr.Dataset:
        """Open a product; see :func:`hsfuse.open`."""
        path = os.fspath(filename_or_obj)
        dataset = open_dataset(path, role=role, s2_bands=s2_bands, vnir_swir_cut_nm=vnir_swir_cut_nm)
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        return dataset.drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:  # noqa: ARG002 - xarray's signature
        """No: files of other people are left to the engines that they expect."""
        return False
