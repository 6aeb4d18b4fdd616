"""For whoever writes a method, a reader, a writer or a metric of their own: a small scene and the checks of hsfuse.

Each ``check_...`` raises AssertionError with a sentence that says which promise is broken; see ``docs/extending.md``.
"""

from hsfuse.testing.installed import install, installed
from hsfuse.testing.methods import check_method
from hsfuse.testing.metrics import check_metric
from hsfuse.testing.readers import check_reader
from hsfuse.testing.scene import SmallScene, small_scene
from hsfuse.testing.writers import check_writer

__all__ = [
    "SmallScene",
    "check_method",
    "check_metric",
    "check_reader",
    "check_writer",
    "install",
    "installed",
    "small_scene",
]
