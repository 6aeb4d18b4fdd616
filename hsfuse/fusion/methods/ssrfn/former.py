"""SSRFN's weights of files that did not name their architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWN = {"cfe_cycles", "scm_steps", "refine_stages"}
"""Settings that no other network of that time had."""


def recognises(settings: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of SSRFN."""
    return set(settings) >= _OWN


def settings_of_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in today's terms."""
    return dict(settings)
