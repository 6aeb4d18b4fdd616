"""Compiled fast path of the Mamba-2 block on CPUs: plain C, built once on the user's machine, no torch ABI."""

from hsfuse.fusion.nets.native.build import native_status

__all__ = ["native_status"]
