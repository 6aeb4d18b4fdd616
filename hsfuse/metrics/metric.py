"""What a quality metric is, and which there are: the package's own and those of other distributions.

A metric is an object of :class:`Metric` in some module, declared as an entry point of the group ``hsfuse.metrics``.
What scores a cube, the tables of ``hsfuse compare``, the report and the verdict ask this registry; none names one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hsfuse.errors import HsfuseError
from hsfuse.log import get_logger
from hsfuse.metrics.evidence import Evidence, Kind
from hsfuse.registry import Registry

_log = get_logger(__name__)


@dataclass(frozen=True)
class MetricText:
    """How a value is printed and explained to people who did not write the software.

    Attributes
    ----------
    label
        Name in tables and reports.
    meaning
        One or two sentences.
    better
        Direction or ideal value in words.
    unit, decimals
        How the value is printed.
    """

    label: str
    meaning: str
    better: str = ""
    unit: str = ""
    decimals: int = 3

    def show(self, value: float | None) -> str:
        """Return the value with its unit."""
        if value is None:
            return "not computed"
        if not np.isfinite(value):
            return "infinite" if np.isposinf(value) else "not computable"
        return f"{value:.{self.decimals}f}{self.unit}".replace("-", "−")


@dataclass(frozen=True)
class Limits:
    """What a value must reach for a good verdict.

    Attributes
    ----------
    care, fail
        Beyond ``care`` the product asks for care, beyond ``fail`` it failed; None: never.
    plain
        What a bad value means to somebody who has to decide whether to use the cube.
    """

    care: float | None
    fail: float | None
    plain: str


def mean_of(parts: Sequence[Any]) -> float | None:
    """Mean of what a metric found in each window; None where it found nothing."""
    return float(np.mean(parts)) if len(parts) else None


@dataclass(frozen=True)
class Metric:
    """One quality metric.

    Attributes
    ----------
    key
        Name of the value in JSON files and on the command line, such as ``PSNR``.
    compute
        ``compute(evidence)`` judges one window of a fused cube, or a whole one; None: the window does not allow it.
    needs
        What must be known beside the fused cube: ``reference`` (the truth), ``hsi``, ``msi``, ``srf``. A metric is
        computed wherever all of it is there.
    text
        How values are printed and explained.
    direction
        1 where higher is better, -1 where lower is, 0 where neither.
    limits
        What a good cube reaches; None: the verdict passes the metric over.
    combine
        Makes one value of what :attr:`compute` returned for each window; the mean by default.
    rank
        Place in tables: smaller ranks come first.
    """

    key: str
    compute: Callable[[Evidence], Any] = field(repr=False)
    needs: frozenset[Kind]
    text: MetricText
    direction: Literal[-1, 0, 1]
    limits: Limits | None = None
    combine: Callable[[Sequence[Any]], float | None] = field(default=mean_of, repr=False)
    rank: int = 1000


METRICS: Registry[Metric] = Registry("hsfuse.metrics", Metric, "quality metric")
"""All metrics by name."""


def metrics_for(known: frozenset[Kind]) -> tuple[Metric, ...]:
    """Return the metrics for what is known: with a reference those that need it, else those that do not."""
    wanted = [
        metric
        for _, metric in METRICS.entries()
        if metric.needs <= known and ("reference" in metric.needs) == ("reference" in known)
    ]
    return tuple(sorted(wanted, key=lambda metric: (metric.rank, metric.key)))


def all_metrics() -> tuple[Metric, ...]:
    """Return all metrics in the order of tables."""
    return tuple(sorted((metric for _, metric in METRICS.entries()), key=lambda metric: (metric.rank, metric.key)))


class Scoring:
    """Scores a cube from one window or several.

    Parameters
    ----------
    metrics
        What to compute.
    strict
        Raise what a metric raises, instead of leaving its score out.
    """

    def __init__(self, metrics: Sequence[Metric], *, strict: bool = False) -> None:
        self._metrics = tuple(metrics)
        self._strict = strict
        self._parts: dict[str, list[Any]] = {metric.key: [] for metric in self._metrics}

    def add(self, evidence: Evidence) -> None:
        """Take one window into account."""
        self.take(self.look(evidence))

    def look(self, evidence: Evidence) -> dict[str, Any]:
        """Return what the metrics find in one window, for :meth:`take`; windows may be looked at side by side."""
        found = {}
        for metric in self._metrics:
            if metric.needs <= evidence.known:
                found[metric.key] = metric.compute(evidence) if self._strict else _computed(metric, evidence)
        return found

    def take(self, found: Mapping[str, Any]) -> None:
        """Take into account what was found in one window."""
        for key, part in found.items():
            if part is not None:
                self._parts[key].append(part)

    def scores(self) -> dict[str, float | None]:
        """Return the value of every metric; None where no window allowed one, or it is not finite."""
        found: dict[str, float | None] = {}
        for metric in self._metrics:
            parts = self._parts[metric.key]
            value = metric.combine(parts) if parts else None
            found[metric.key] = float(value) if value is not None and np.isfinite(value) else None
        return found


def _computed(metric: Metric, evidence: Evidence) -> Any:
    try:
        return metric.compute(evidence)
    except HsfuseError:
        raise
    except Exception as error:
        # A cube that took an hour is not lost because one of its scores cannot be computed.
        _log.warning("The metric %s could not be computed (%s: %s).", metric.key, type(error).__name__, error)
        return None
