"""Which method makes the cube: never a network that nobody trained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsfuse.config import RunConfig
from hsfuse.degrade import Psf
from hsfuse.errors import DeviceError, HsfuseError, InputError, UsageError
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import RefinedMethod
from hsfuse.fusion.nets import zoo
from hsfuse.fusion.registry import METHODS, automatic_methods, available_methods, is_network
from hsfuse.workflows.steps import methods
from hsfuse.workflows.steps.methods import choose_method
from hsfuse.workflows.steps.resources import resolve_device

sys.path.insert(0, str(Path(__file__).parent))
from network_weights import write_tiny

ALONE = RunConfig(quality="plain")
"""Nothing is put behind the method: networks are tried."""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """An empty zoo, and a function that puts a tiny network into it."""
    root = tmp_path / "zoo"
    root.mkdir()
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [root])

    def put(name: str, *, trained: bool = True, **changes: Any) -> Path:
        folder = root / name
        folder.mkdir(exist_ok=True)
        return write_tiny(folder / "weights.safetensors", name=name, **changes) if trained else folder

    return put


def test_the_default_is_explained(shelf: Callable[..., Path]) -> None:
    chosen = choose_method(ALONE)
    assert chosen.method.spec.name == "glp"
    assert chosen.reason == "GLP, because no network has trained weights."
    shelf("ssrfn", gain_db=0.01)
    shelf("ssrfn-lite").write_bytes(b"damaged")
    reason = choose_method(ALONE).reason
    assert "the weights of 'ssrfn-lite' cannot be used" in reason
    assert "'ssrfn' gained nothing over its base estimate in training" in reason


def test_with_a_step_behind_the_method_auto_spares_networks_that_gain_nothing_beside_it(
    shelf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf("ssrfn")
    shelf("ssrfn-lite")
    chosen = choose_method(RunConfig())
    assert (chosen.method.spec.name, chosen.automatic) == ("glp", False)
    assert "no network gains enough" in chosen.reason
    assert choose_method(RunConfig(adapt=1.0)).method.spec.name == "ssrfn-lite"
    # One whose own refinement gains with this quality is tried.
    entry = METHODS.get("ssrfn")
    assert entry.network is not None
    own = replace(entry, network=replace(entry.network, refines_with=("best",)))
    get = METHODS.get
    monkeypatch.setattr(METHODS, "get", lambda name: own if name == "ssrfn" else get(name))
    assert choose_method(RunConfig()).method.spec.name == "glp"
    assert choose_method(RunConfig(quality="best")).method.spec.name == "ssrfn"


def test_auto_takes_the_gate_with_best() -> None:
    assert choose_method(RunConfig(quality="best")).name == "ssrfn-gate"
    assert choose_method(RunConfig()).name == "glp"


def test_the_fallback_of_a_network_that_refines_itself_is_refined() -> None:
    config = RunConfig(quality="best")
    network = choose_method(config).method.at_quality("best")
    assert network is not None
    for method in (network, methods.guarded(network, methods.FidelityOptions(1), ratio=3, psf=Psf(1.0))):
        spare = methods._in_place_of(method, create_method("glp"), config, 3)
        step = spare.inner if isinstance(spare, methods.GuardedMethod) else spare
        assert isinstance(step, RefinedMethod)
        assert step.inner.spec.name == "glp"


def test_the_best_proven_network_is_tried_first(
    shelf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shelf("ssrfn")
    shelf("ssrfn-lite")
    chosen = choose_method(ALONE)
    assert (chosen.method.spec.name, chosen.automatic) == ("ssrfn-lite", True)
    shelf("ssrfn-lite", gain_db=-0.3)
    assert choose_method(ALONE).method.spec.name == "ssrfn"
    assert "decides" in chosen.reason
    # Which one is the best is what the entries say.
    assert automatic_methods("network") == ("ssrfn-lite", "ssrfn", "ssrfn-gate")
    monkeypatch.setattr(methods, "automatic_methods", lambda kind: ())
    assert choose_method(ALONE).method.spec.name == "glp"
    with caplog.at_level("WARNING"):
        choose_method(RunConfig(quality="plain", adapt=1.0, precision="bf16"))
    assert "--adapt and --precision had no effect" in caplog.text


def test_damaged_weights_of_the_installation_do_not_stop_a_job(
    shelf: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = shelf("ssrfn")
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level("WARNING"):
        chosen = choose_method(ALONE)
    assert chosen.method.spec.name == "glp"
    assert "'ssrfn' is not used" in caplog.text
    with pytest.raises(InputError, match="damaged"):
        choose_method(RunConfig(method="ssrfn"))


@pytest.mark.parametrize("name", [n for n in available_methods() if is_network(n)])
def test_untrained_networks_are_refused(name: str, shelf: Callable[..., Path]) -> None:
    shelf(name, trained=False)
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
    with pytest.raises(DeviceError, match="There is no GPU 99") as caught:
        resolve_device("cuda:99")
    assert caught.value.exit_code == 11
