"""What a fusion method promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hsfuse.fusion.base import FusionMethod
from hsfuse.testing.expect import expect
from hsfuse.testing.scene import SmallScene, small_scene


def check_method(
    create: Callable[[], FusionMethod], scene: SmallScene | None = None, *, tolerance: float = 1e-4
) -> None:
    """Check that a method can be tiled: that what it gives depends on the scene, not on the tile.

    Parameters
    ----------
    create
        Makes the method, ready for a scene; called twice.
    scene
        What it is tried on; None: :func:`small_scene`.
    tolerance
        Largest difference in reflectance between a tile and the whole.

    Raises
    ------
    AssertionError
        The result has the wrong shape or type, is not finite, differs between equal runs or between a tile with its
        halo and the whole scene.
    """
    import torch

    scene = scene or small_scene()
    method = _fitted(create, scene)
    r, halo = scene.ratio, method.spec.halo_px
    hsi, msi = torch.from_numpy(scene.hsi)[None], torch.from_numpy(scene.msi)[None]
    with torch.no_grad():
        whole = method.fuse(hsi, msi)
        again = _fitted(create, scene).fuse(hsi, msi)
    name = method.spec.name
    expect(tuple(whole.shape) == (1, *scene.truth.shape), f"{name} returns {tuple(whole.shape)}, not the MSI's grid.")
    expect(whole.dtype == torch.float32, f"{name} returns {whole.dtype}, not float32.")
    expect(torch.isfinite(whole).all(), f"{name} returns numbers that are not finite.")
    expect(torch.equal(whole, again), f"{name} gives another cube when it is run again.")
    rows, cols = scene.grid.shape
    step = max(method.spec.multiple_px, 1)
    top, left = (step * ((size - 2 * halo) // (2 * step)) for size in (rows, cols))
    if method.spec.overlap_px or min(top, left) < 1:
        # Tiles that overlap are blended; their edges may differ.
        return
    with torch.no_grad():
        part = method.fuse(hsi[..., : rows - top, : cols - left], msi[..., : (rows - top) * r, : (cols - left) * r])
    inner = slice(0, (rows - top - halo) * r), slice(0, (cols - left - halo) * r)
    difference = float((part[..., *inner] - whole[..., *inner]).abs().max())
    expect(
        difference <= tolerance,
        f"{name} gives {difference:.3g} reflectance beside the whole inside a tile: its halo of {halo} HSI pixels is "
        "too small, or it learns from the tile.",
    )


def _fitted(create: Callable[[], FusionMethod], scene: SmallScene) -> FusionMethod:
    method = create()
    expected = method.spec.centre_nm
    expect(
        expected is None or np.allclose(expected, scene.bands.centre_nm, atol=1.0),
        f"{method.spec.name} was trained for other bands than the scene has; give it a scene of its own.",
    )
    method.fit(scene.context, scene.strips)
    return method
