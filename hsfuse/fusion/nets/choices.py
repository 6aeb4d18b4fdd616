"""What may be chosen about the building blocks of networks; configurations are read without PyTorch."""

from __future__ import annotations

from typing import Literal

Activation = Literal["silu", "gelu", "none"]
MambaKind = Literal["mamba2", "mamba1", "none"]
Scan = Literal["raster", "bidirectional", "cross", "lines", "channels"]
Wrap = Literal["residual", "prenorm", "bare"]
Volume = Literal["shared", "depthwise", "full"]
