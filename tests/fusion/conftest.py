"""What tests of the compiled networks share."""

from __future__ import annotations

import pytest

from hsfuse.fusion.nets.native import build, native_status
from hsfuse.native import build as builder


@pytest.fixture(params=list(builder.ISA_FLAGS))
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Select an instruction set; skip where this machine has no compiler or the processor lacks it."""
    order = ["baseline", "avx2", "avx512", "avx512_bf16"]
    if order.index(request.param) > order.index(builder.best_isa()):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv(build.OVERRIDE, request.param)
    if build.native_library() is None:
        pytest.skip(native_status())
    return str(request.param)
