"""Which method makes the cube: never a network that nobody trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hsfuse.config import RunConfig
from hsfuse.degrade import Psf
from hsfuse.errors import DeviceError, HsfuseError, InputError, UsageError
from hsfuse.fusion.create import create_method
from hsfuse.fusion.fidelity import FidelityOptions, GuardedMethod, guarded
from hsfuse.fusion.map.method import RefinedMethod
from hsfuse.fusion.nets import zoo
from hsfuse.fusion.nets.header import FORMAT
from hsfuse.fusion.registry import METHODS, automatic_methods, available_methods, is_network
from hsfuse.workflows.steps import methods
from hsfuse.workflows.steps.behind_method import in_place_of
from hsfuse.workflows.steps.methods import choose_method
from hsfuse.workflows.steps.precision import network_precision
from hsfuse.workflows.steps.resources import resolve_device

sys.path.insert(0, str(Path(__file__).parent))
from network_weights import choose_automatically, write_tiny

ALONE = RunConfig(quality="plain")
"""Nothing is put behind the method: networks are tried."""


FIRST, SECOND = "ssrnet-lite", "ssrnet"
"""Networks that correct a base estimate; ``auto`` tries them where an entry says so."""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """An empty zoo, and a function that puts a tiny network into it; ``auto`` tries two of them."""
    root = tmp_path / "zoo"
    root.mkdir()
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [root])
    choose_automatically(monkeypatch, FIRST, SECOND)

    def put(name: str, *, trained: bool = True, **changes: Any) -> Path:
        folder = root / name
        folder.mkdir(exist_ok=True)
        return write_tiny(folder / "weights.safetensors", name=name, **changes) if trained else folder

    return put


def test_the_default_is_explained(shelf: Callable[..., Path]) -> None:
    chosen = choose_method(ALONE)
    assert chosen.method.spec.name == "glp"
    assert chosen.reason == "GLP, because no network has trained weights."
    shelf(SECOND, gain_db=0.01)
    shelf(FIRST).write_bytes(b"damaged")
    reason = choose_method(ALONE).reason
    assert f"the weights of '{FIRST}' cannot be used" in reason
    assert f"'{SECOND}' gained nothing over its base estimate in training" in reason


def test_auto_tries_networks_where_they_gain_over_what_stands_without_them(
    shelf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(SECOND)
    shelf(FIRST)
    chosen = choose_method(RunConfig())
    assert (chosen.method.spec.name, chosen.automatic) == ("glp", False)
    assert "no network gains enough" in chosen.reason
    assert choose_method(RunConfig(adapt=1.0)).method.spec.name == FIRST
    # One whose own refinement gains with this quality is tried, and not where nothing is to be put behind.
    entry = METHODS.get(SECOND)
    assert entry.network is not None
    own = replace(entry, network=replace(entry.network, refines_with=("best",)))
    monkeypatch.setitem(METHODS._loaded, SECOND, own)
    assert choose_method(RunConfig()).method.spec.name == "glp"
    assert choose_method(RunConfig(quality="best")).method.spec.name == SECOND
    assert choose_method(ALONE).method.spec.name == FIRST


def test_which_network_auto_tries_of_those_that_are_shipped() -> None:
    assert automatic_methods("network") == ("ssrfn-lite", "ssrfn")
    assert choose_method(RunConfig(quality="best")).name == "ssrfn-lite"
    assert choose_method(RunConfig()).name == "glp"
    plain = choose_method(ALONE)
    assert (plain.name, "leaves that out" in plain.reason) == ("glp", True)
    assert choose_method(RunConfig(adapt=1.0)).name == "ssrfn-lite"


def test_weights_of_a_former_form_are_told_apart(tmp_path: Path) -> None:
    """Such as those that corrected a base estimate: the file is sound, and no network of today can use it."""
    former = tmp_path / "former.safetensors"
    header = {"name": "ssrfn-lite", "architecture": "ssrfn", "config": {"n_bands": 2, "guide_denoiser": 8},
              "centre_nm": [500.0, 600.0], "fwhm_nm": [10.0, 10.0], "ratios": [3], "msi_bands": [], "n_msi": 0,
              "base": "glp", "halo_px": 0, "overlap_px": 0, "training": {}}  # fmt: skip
    metadata = {"format": FORMAT, "format_version": "2", FORMAT: json.dumps(header)}
    save_file({"x": torch.zeros(1)}, former, metadata=metadata)
    for name in ("ssrfn", "ssrfn-lite"):
        with pytest.raises(InputError, match=f"former '{name}', which corrected a base estimate") as caught:
            choose_method(RunConfig(method=name, model=former))
        assert "Leave out --model" in caught.value.hint


def test_a_former_name_is_told_todays() -> None:
    for ask in (lambda: choose_method(RunConfig(method="ssrfn-gate")), lambda: zoo.find_model("ssrfn-gate")):
        with pytest.raises(UsageError, match="'ssrfn-gate' is called 'ssrfn-lite' today"):
            ask()


@pytest.mark.parametrize("name", ["ssrfn-lite", "ssrfn"])
def test_precision_of_networks_that_calculate_in_one(name: str) -> None:
    assert network_precision(name, "auto", "cpu") == "fp32"
    assert choose_method(RunConfig(method=name)).method.spec.precision == "fp32"
    with pytest.raises(UsageError, match="does not run in precision 'bf16'") as caught:
        choose_method(RunConfig(method=name, precision="bf16"))
    assert "fp32" in caught.value.hint


def test_the_fallback_of_a_network_that_refines_itself_is_refined() -> None:
    config = RunConfig(quality="best")
    network = choose_method(config).method.at_quality("best")
    assert network is not None
    for method in (network, guarded(network, FidelityOptions(1), ratio=3, psf=Psf(1.0))):
        spare = in_place_of(method, create_method("glp"), config, 3)
        step = spare.inner if isinstance(spare, GuardedMethod) else spare
        assert isinstance(step, RefinedMethod)
        assert step.inner.spec.name == "glp"


def test_the_best_proven_network_is_tried_first(
    shelf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shelf(SECOND)
    shelf(FIRST)
    chosen = choose_method(ALONE)
    assert (chosen.method.spec.name, chosen.automatic) == (FIRST, True)
    shelf(FIRST, gain_db=-0.3)
    assert choose_method(ALONE).method.spec.name == SECOND
    assert "decides" in chosen.reason
    monkeypatch.setattr(methods, "automatic_methods", lambda kind: ())
    assert choose_method(ALONE).method.spec.name == "glp"
    with caplog.at_level("WARNING"):
        choose_method(RunConfig(quality="plain", adapt=1.0, precision="bf16"))
    assert "--adapt and --precision had no effect" in caplog.text


def test_damaged_weights_of_the_installation_do_not_stop_a_job(
    shelf: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = shelf(FIRST)
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level("WARNING"):
        chosen = choose_method(ALONE)
    assert chosen.method.spec.name == "glp"
    assert f"'{FIRST}' is not used" in caplog.text
    with pytest.raises(InputError, match="damaged"):
        choose_method(RunConfig(method=FIRST))


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
