"""Compiled inner loops: plain C, built once on the user's machine, each with a plain twin that serves without it."""

from hsfuse.native.build import OVERRIDE, NativeLibrary

__all__ = ["OVERRIDE", "NativeLibrary"]
