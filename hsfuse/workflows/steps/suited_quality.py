"""The quality that a method can be asked for."""

from __future__ import annotations

from hsfuse.config import RunConfig
from hsfuse.errors import UsageError
from hsfuse.fusion.registry import uses_guide
from hsfuse.log import get_logger

_log = get_logger(__name__)


def suited_quality(config: RunConfig) -> RunConfig:
    """Settings whose quality suits the method: one that does not look at the guide is left as it is.

    Raises
    ------
    UsageError
        Pixels are to be left out by their confidence, which is then not known.
    """
    if config.quality == "plain" or uses_guide(config.method):
        return config
    if config.min_confidence is not None:
        raise UsageError(
            f"The method '{config.method}' takes no --min-confidence: it does not look at the guide.",
            hint="Leave out --min-confidence, or use another method.",
        )
    if "quality" in config.model_fields_set:
        _log.warning("--quality is not used: %s does not look at the guide.", config.method)
    return config.model_copy(update={"quality": "plain"})
