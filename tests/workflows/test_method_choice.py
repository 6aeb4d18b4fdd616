"""Which method makes the cube: never a network that nobody trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsfuse.config import RunConfig
from hsfuse.errors import HsfuseError, InputError, UsageError
from hsfuse.fusion.base import available_methods, create_method, is_network
from hsfuse.workflows.methods import choose_method, resolve_device


def test_the_default_is_explained() -> None:
    chosen = choose_method(RunConfig())
    assert chosen.method.spec.name == "glp"
    assert "network" in chosen.reason


@pytest.mark.parametrize("name", [n for n in available_methods() if is_network(n)])
def test_untrained_networks_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_method(RunConfig(method=name))
    assert "glp" in caught.value.hint or "train" in caught.value.hint


@pytest.mark.parametrize("name", [n for n in available_methods() if not is_network(n)])
def test_classics_describe_themselves_and_take_no_weights(name: str) -> None:
    spec = create_method(name).spec
    assert (spec.name, spec.kind) == (name, "classical")
    assert spec.reference
    with pytest.raises(UsageError, match="takes no --model"):
        choose_method(RunConfig(method=name, model=Path("x.safetensors")))


def test_bad_weights_are_named(tmp_path: Path) -> None:
    foreign = tmp_path / "pickle.pt"
    foreign.write_bytes(b"\x80\x04pickle")
    with pytest.raises(HsfuseError, match=r"pickle\.pt"):
        choose_method(RunConfig(method="ssrfn", model=foreign))
    with pytest.raises(UsageError, match="needs --method"):
        choose_method(RunConfig(model=foreign))


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda:0")
    with pytest.raises(InputError, match="There is no GPU 99"):
        resolve_device("cuda:99")
