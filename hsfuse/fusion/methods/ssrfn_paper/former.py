"""SSRFN's weights of files that did not name their architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWN = {"cfe_cycles", "scm_steps", "refine_stages"}
"""Settings that no other network of that time had."""
_SETTINGS = {"draft_features": "estimate_features"}


def recognises(settings: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of SSRFN."""
    return set(settings) >= _OWN


def settings_of_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in today's terms: what is corrected is the base estimate, it was the draft."""
    found = {_SETTINGS.get(name, name): value for name, value in settings.items()}
    if found.get("base") == "draft":
        found["base"] = "estimate"
    return found


def tensor_name_of_today(name: str) -> str:
    """Return the name of a tensor in today's terms."""
    return name.replace("draft_in.", "estimate_in.") if name.startswith("draft_in.") else name
