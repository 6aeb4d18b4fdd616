"""What may be chosen about the building blocks of networks; configurations are read without PyTorch."""

from __future__ import annotations

from typing import Literal

Activation = Literal["silu", "gelu", "none"]
Base = Literal["none", "bicubic", "estimate"]
"""What a network's output is added to: nothing, the interpolated HSI, or a classical method's estimate."""
MambaKind = Literal["mamba2", "mamba1", "none"]
Scan = Literal["raster", "bidirectional", "cross", "lines", "channels"]
Wrap = Literal["residual", "prenorm", "bare"]
Volume = Literal["shared", "depthwise", "full"]
