"""Files beside a cube: their place is checked before any work, in the same words for each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hsfuse.errors import OutputError
from hsfuse.workflows.steps.adapted import adapted_path, check_adapted_path, unpublished_path
from hsfuse.workflows.steps.confidence_path import check_confidence_path
from hsfuse.writers import WriteOptions
from hsfuse.writers.confidence_layer import confidence_path

Check = Callable[[Path, WriteOptions], None]
KINDS = [(check_confidence_path, confidence_path), (check_adapted_path, adapted_path)]


def _refused(check: Check, output: Path, words: str, **options: object) -> str:
    with pytest.raises(OutputError, match=words) as caught:
        check(output, WriteOptions(**options))  # type: ignore[arg-type]
    assert caught.value.exit_code == 7
    return caught.value.hint


@pytest.mark.parametrize(("check", "place"), KINDS)
def test_what_is_in_the_place_of_a_companion(tmp_path: Path, check: Check, place: Callable[[Path], Path]) -> None:
    output = tmp_path / "o.tif"
    check(output, WriteOptions())
    path = place(output)
    path.write_bytes(b"somebody's own file")
    assert "--overwrite" in _refused(check, output, "exists already")
    for options in ({"overwrite": True}, {"resume": True}):
        assert "--overwrite" not in _refused(check, output, "is in the way of the .* and is none", **options)
    path.unlink()
    (tmp_path / "m.tif").write_bytes(b"input")
    path.symlink_to("m.tif")
    _refused(check, output, "is the input", overwrite=True, inputs=(tmp_path / "m.tif",))


def test_what_is_in_the_place_of_weights_that_wait_for_their_cube(tmp_path: Path) -> None:
    output = tmp_path / "o.tif"
    unpublished_path(output).write_bytes(b"no weights")
    _refused(check_adapted_path, output, "is in the way", resume=True)
