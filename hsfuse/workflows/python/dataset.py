"""``hsfuse.open``: any product, and every fused cube, as an xarray Dataset that reads what is looked at."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct, ProductInfo
from hsfuse.readers.overlap import DEFAULT_CUT_NM
from hsfuse.workflows.python.words import speaks_python
from hsfuse.writers.confidence_layer import LAYERS, confidence_path

if TYPE_CHECKING:
    import xarray as xr

    from hsfuse.workflows.python.lazy import Product

_WAVELENGTH = {"units": "nm", "long_name": "wavelength", "standard_name": "radiation_wavelength"}


@speaks_python
def open(
    path: str | Path,
    *,
    role: Literal["hsi", "msi"] | None = None,
    s2_bands: Literal["10m", "all"] = "10m",
    vnir_swir_cut_nm: float = DEFAULT_CUT_NM,
    chunks: int | str | dict[str, int] | None = None,
) -> xr.Dataset:
    """Open a product or a fused cube as an xarray Dataset.

    Nothing but headers is read here: values are read when they are looked at, and no more of them than is picked.

    Parameters
    ----------
    path
        PRISMA, EnMAP, DESIS, EMIT, Sentinel-2, or any raster; a cube that hsfuse wrote.
    role
        ``hsi`` or ``msi`` where a raster could be both; None: what it most likely is.
    s2_bands
        Bands of a Sentinel-2 product: those of 10 m, or the 20 m bands too.
    vnir_swir_cut_nm
        Where two detectors overlap, VNIR bands are taken below and SWIR bands above.
    chunks
        As of ``xarray.open_dataset``: sizes for Dask, which the extra ``dask`` brings. None: no Dask.

    Returns
    -------
    xarray.Dataset
        ``reflectance`` of the dimensions (wavelength, y, x), or (band, y, x) of a multispectral image, with the
        coordinates ``wavelength`` and ``fwhm`` in nanometres; NaN where there is no data. Masks are variables of their
        own where the product has them: ``valid``, ``cloud``, ``error_code`` (PRISMA's bits), ``scene_class``
        (Sentinel-2); a fused cube with a confidence layer has ``change_probability``, ``expected_relative_error`` and
        ``source``. The reference system is where rioxarray looks for it (``ds.rio.crs``). Closing the Dataset closes
        the file.

    Raises
    ------
    UsageError
        xarray is not installed.
    InputError
        No reader can read the path.

    Examples
    --------
    >>> import hsfuse
    >>> ds = hsfuse.open("prisma.he5")
    >>> ds.reflectance.sel(wavelength=850, method="nearest").plot()  # doctest: +ELLIPSIS
    <matplotlib...>
    """
    xarray = need_xarray("hsfuse.open")
    from hsfuse.workflows.python.lazy import open_product_as, role_and_product

    file = Path(path)
    found, product = role_and_product(file, s2_bands, vnir_swir_cut_nm, role)
    # A mode must be given: without one, copies of the manager cannot open their file.
    manager = xarray.backends.CachingFileManager(
        open_product_as, str(file.absolute()), found, s2_bands, vnir_swir_cut_nm, mode="r"
    )
    with product:
        dataset = _dataset(product, manager)
    _add_confidence(dataset, file, product.grid)
    dataset.set_close(manager.close)
    return dataset if chunks is None else dataset.chunk(chunks)


def need_xarray(what: str) -> Any:
    """Import xarray with rioxarray.

    Raises
    ------
    UsageError
        One of them is not installed.
    """
    try:
        importlib.import_module("rioxarray")
        return importlib.import_module("xarray")
    except ImportError as error:
        raise UsageError(
            f"{what} needs xarray and rioxarray ({error}).", hint="Install them: pip install 'hsfuse[xarray]'."
        ) from error


def _dataset(product: Product, manager: Any) -> xr.Dataset:
    import xarray as xr
    from xarray.backends.locks import SerializableLock

    grid, start, lock = product.grid, Slice2D(0, 1, 0, 1), SerializableLock()
    spectral = _spectral_coordinates(product)
    axis = next(iter(spectral))
    count = len(spectral[axis][1])
    cube, plane = (axis, "y", "x"), ("y", "x")
    variables: dict[str, xr.Variable] = {}

    def add(name: str, dims: tuple[str, ...], read: Any, dtype: str, **about: Any) -> None:
        shape = (count, *grid.shape) if len(dims) == 3 else grid.shape
        variables[name] = xr.Variable(dims, _lazy(manager, lock, read, shape, dtype), about)

    add("reflectance", cube, _reflectance, "float32", long_name="reflectance", units="1")
    if isinstance(product, HyperspectralProduct):
        add("valid", plane, _valid, "bool", long_name="inside the imaged footprint")
        if product.error_codes(start, [0]) is not None:
            add("error_code", cube, _error_codes, "uint8", long_name="1 invalid in L1, 2 negative, 4 saturated")
    if product.cloud(start) is not None:
        add("cloud", plane, _cloud, "bool", long_name="hidden by cloud, its shadow or cirrus")
    if isinstance(product, MultispectralProduct) and product.classes(start) is not None:
        add("scene_class", plane, _classes, "uint8", long_name="scene classification (SCL)")
    dataset = xr.Dataset(variables, coords=spectral | _map_coordinates(grid), attrs=_attributes(product.info))
    dataset = dataset.rio.write_crs(grid.crs, inplace=True)
    return dataset.rio.write_transform(grid.transform, inplace=True)  # type: ignore[no-any-return]


def _lazy(manager: Any, lock: Any, read: Any, shape: tuple[int, ...], dtype: str) -> Any:
    from xarray.core import indexing

    from hsfuse.workflows.python.lazy import LazyArray

    return indexing.LazilyIndexedArray(LazyArray(manager, lock, read, shape, dtype))


def _spectral_coordinates(product: Product) -> dict[str, Any]:
    """Coordinates along the bands, that of the dimension first."""
    if isinstance(product, HyperspectralProduct):
        bands = product.bands
        return {
            "wavelength": ("wavelength", bands.centre_nm, _WAVELENGTH),
            "fwhm": ("wavelength", bands.fwhm_nm, {"units": "nm", "long_name": "full width at half maximum"}),
            "detector": ("wavelength", list(bands.detector)),
            "good": ("wavelength", bands.good, {"long_name": "not flagged as bad by the producer"}),
        }
    names = list(product.band_names)
    coordinates: dict[str, Any] = {"band": ("band", names)}
    if product.responses is not None:
        ranges = [response.range_nm for response in product.responses]
        coordinates["wavelength"] = ("band", [response.centre_nm for response in product.responses], _WAVELENGTH)
        coordinates["fwhm"] = ("band", [high - low for low, high in ranges], {"units": "nm"})
    return coordinates


def _map_coordinates(grid: Grid) -> dict[str, Any]:
    """Map coordinates of the pixels' centres."""
    x, _ = grid.xy(0.0, np.arange(grid.width, dtype=np.float64))
    _, y = grid.xy(np.arange(grid.height, dtype=np.float64), 0.0)
    return {"y": ("y", y), "x": ("x", x)}


def _attributes(info: ProductInfo) -> dict[str, Any]:
    facts = {
        "product": info.name, "sensor": info.sensor, "level": info.level,
        "start": info.start.isoformat() if info.start else None, "sun_zenith_deg": info.sun_zenith_deg,
        "sun_azimuth_deg": info.sun_azimuth_deg, "view_zenith_deg": info.view_zenith_deg,
        "warnings": " ".join(info.warnings),
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _add_confidence(dataset: xr.Dataset, cube: Path, grid: Grid) -> None:
    """Add the confidence layer that lies beside a fused cube."""
    import xarray as xr
    from xarray.backends.locks import SerializableLock

    path = confidence_path(cube)
    if not path.is_file() or path == cube:
        return
    manager = xr.backends.CachingFileManager(_open_layer, str(path.absolute()), mode="r")
    with manager.acquire_context() as layer:
        fits = layer.shape == (len(LAYERS), *grid.shape)
    if not fits:
        return
    lock = SerializableLock()
    for name, read in zip(LAYERS, (_change, _error, _source), strict=True):
        dataset[name.replace(" ", "_")] = xr.Variable(("y", "x"), _lazy(manager, lock, read, grid.shape, "float32"))


def _open_layer(path: str, mode: str = "r") -> Any:  # noqa: ARG001
    from hsfuse.writers.raster_cube import RasterCube

    return RasterCube(Path(path))


# Functions of the module: arrays that are sent to other processes take them along by name.


def _reflectance(product: Product, block: Slice2D, bands: list[int]) -> NDArray[np.float32]:
    return product.read(block, bands)


def _valid(product: HyperspectralProduct, block: Slice2D, _bands: list[int]) -> NDArray[np.bool_]:
    return product.valid(block)


def _error_codes(product: HyperspectralProduct, block: Slice2D, bands: list[int]) -> NDArray[np.uint8]:
    codes = product.error_codes(block, bands)
    return np.zeros((len(bands), *block.shape), np.uint8) if codes is None else codes


def _cloud(product: Product, block: Slice2D, _bands: list[int]) -> NDArray[np.bool_]:
    cloud = product.cloud(block)
    return np.zeros(block.shape, np.bool_) if cloud is None else cloud


def _classes(product: MultispectralProduct, block: Slice2D, _bands: list[int]) -> NDArray[np.uint8]:
    classes = product.classes(block)
    return np.zeros(block.shape, np.uint8) if classes is None else classes


def _change(layer: Any, block: Slice2D, _bands: list[int]) -> NDArray[np.float32]:
    return layer.read([0], block)[0]  # type: ignore[no-any-return]


def _error(layer: Any, block: Slice2D, _bands: list[int]) -> NDArray[np.float32]:
    return layer.read([1], block)[0]  # type: ignore[no-any-return]


def _source(layer: Any, block: Slice2D, _bands: list[int]) -> NDArray[np.float32]:
    return layer.read([2], block)[0]  # type: ignore[no-any-return]
