"""On a GPU nothing waits for the host between the first and the last operation on a tile: it could not be recorded.

Checked on the CPU: from the second call on, a method neither asks for numbers nor makes tensors of any.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.classical import adaptive
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map import nonlocal_bayes
from hsfuse.fusion.map.method import refined
from hsfuse.fusion.methods.ssrfn import network as gate
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.nets.ssm import Mamba2
from hsfuse.native import build
from hsfuse.testing.scene import small_scene

_ASKING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "lift_fresh", "masked_select", "unique")


class NothingAsked(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket).removeprefix("aten.")
        assert name not in _ASKING, f"the host waits in {name}"
        return func(*args, **(kwargs or {}))


def as_by_kernels(block: Mamba2, u: torch.Tensor) -> torch.Tensor:
    """Stands for the kernels of a Mamba block."""
    joined = block.in_proj(u)[..., : block.d_inner]
    out: torch.Tensor = block.out_proj(joined)
    return out


METHODS = {
    "bicubic": lambda: create_method("bicubic"),
    "gsa": lambda: create_method("gsa"),
    "glp": lambda: create_method("glp"),
    "glp, standard": lambda: refined(create_method("glp"), "standard", ratio=3),
    "ssrfn-lite": lambda: GateMethod.untrained(validate=False),
    "ssrfn": lambda: GateMethod.untrained(GateConfig(backbone="ssrfn"), validate=False),
}


@pytest.mark.parametrize("name", list(METHODS))
def test_nothing_waits_for_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.OVERRIDE, "off")  # as on a GPU: no compiled kernels
    build.Kernels.forget()
    scene = small_scene(size_px=(24, 20), bands=100)
    method: FusionMethod = METHODS[name]()
    hsi, msi = torch.from_numpy(scene.hsi)[None], torch.from_numpy(scene.msi)[None]
    window = (slice(2, 12), slice(3, 15))
    try:
        with torch.no_grad():
            method.fit(scene.context, scene.strips)
            for module in (adaptive, gate):
                monkeypatch.setattr(module, "may_ask", lambda _: False)
            monkeypatch.setattr(Mamba2, "forward", as_by_kernels)
            expected = method.fuse_window(hsi, msi, window)
            for function in ("as_tensor", "tensor", "from_numpy"):
                monkeypatch.setattr(torch, function, _refuse(function))
            with NothingAsked():
                again = method.fuse_window(hsi, msi, window)
    finally:
        build.Kernels.forget()
    np.testing.assert_array_equal(again.numpy(), expected.numpy())


def test_the_non_local_filter_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = torch.randn(2, 24, 20, generator=torch.Generator().manual_seed(0))
    noisy[:, :9] = 0.0  # no structure at all: its groups have no Wiener filter but the noise's
    monkeypatch.setattr(nonlocal_bayes, "_compiled", lambda *_: None)
    expected = nonlocal_bayes.denoise(noisy, window_px=5, similar=16)
    monkeypatch.setattr(torch, "tensor", _refuse("tensor"))
    with NothingAsked():
        again = nonlocal_bayes.denoise(noisy, window_px=5, similar=16)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    assert bool(again.isfinite().all())


def _refuse(function: str) -> Any:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError(f"torch.{function} copies numbers to the GPU for every batch")

    return refused
