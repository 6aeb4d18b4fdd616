"""Quality metrics with and without a reference, and the registry of them."""

from hsfuse.metrics.evidence import Evidence
from hsfuse.metrics.metric import METRICS, Limits, Metric, MetricText, Scoring, all_metrics, metrics_for

__all__ = ["METRICS", "Evidence", "Limits", "Metric", "MetricText", "Scoring", "all_metrics", "metrics_for"]
