"""Weights on disk, the zoo, and matching of bands by wavelength."""

from __future__ import annotations

import json
import pickle
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hsfuse.degrade import Psf
from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.ssrfn.config import ARCHITECTURE, GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.method import SsrfnMethod
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets import header as header_file
from hsfuse.fusion.nets import zoo
from hsfuse.fusion.nets.band_matching import match_bands
from hsfuse.fusion.nets.header import NetworkHeader, read_header
from hsfuse.fusion.nets.weights import load_named, load_weights, save_weights
from hsfuse.fusion.nets.zoo import find_model, list_models
from hsfuse.fusion.registry import listed_methods
from hsfuse.spectral import BandTable

CONFIG = SsrfnConfig(
    n_bands=5, n_msi=3, width=32, dfe_blocks=1, cfe_cycles=1, scm_steps=1, refine_stages=1, d_state=8, headdim=16,
    base="bicubic", normalisation="band",
)  # fmt: skip
CENTRE = (450.0, 550.0, 650.0, 850.0, 900.0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny sizes gain nothing from threads, and threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def header(**changes) -> NetworkHeader:
    values = {
        "name": "tiny", "architecture": "ssrfn", "config": CONFIG.to_dict(), "centre_nm": CENTRE,
        "fwhm_nm": (10.0,) * 5, "ratios": (2, 3), "n_msi": 3,
        "msi_bands": ("B02", "B03", "B04"), "halo_px": 11, "overlap_px": 4,
        "training": {"scenes": 3, "seconds": 12.5},
    }  # fmt: skip
    return NetworkHeader(**{**values, **changes})


@pytest.fixture
def trained(tmp_path) -> Path:
    torch.manual_seed(0)
    return save_weights(tmp_path / "tiny.safetensors", Ssrfn(CONFIG), header())


def test_round_trip_keeps_weights_and_description(tmp_path):
    torch.manual_seed(0)
    network = Ssrfn(CONFIG)
    path = save_weights(tmp_path / "new" / "w.safetensors", network, header())
    loaded = load_weights(path)
    assert loaded.header == header()
    assert loaded.sha256 == header_file.file_sha256(path)
    assert loaded.network.config == CONFIG
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    assert all(p.requires_grad for p in loaded.network.parameters())
    assert list(path.parent.iterdir()) == [path]


def test_bfloat16_halves_the_file_and_loads_as_float32(tmp_path, trained):
    small = save_weights(tmp_path / "half.safetensors", load_weights(trained).network, header(), dtype="bf16")
    assert small.stat().st_size < 0.65 * trained.stat().st_size
    weight = load_weights(small).network.sfe_hsi.skip.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, load_weights(trained).network.sfe_hsi.skip.weight, rtol=1e-2, atol=1e-3)


def test_loaded_network_gives_the_same_result(tmp_path):
    torch.manual_seed(0)
    network = Ssrfn(CONFIG).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    args = torch.rand(1, 5, 3, 3), torch.rand(1, 3, 6, 6)
    loaded = load_weights(save_weights(tmp_path / "w.safetensors", network, header())).network
    with torch.no_grad():
        assert torch.equal(loaded(*args), network(*args))


def test_pickles_are_refused_without_being_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    for name, content in {"a.safetensors": pickle.dumps(Bomb()), "b.safetensors": b""}.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"w": torch.zeros(2)}, tmp_path / "c.pth")
    for name in ("a.safetensors", "c.pth"):
        with pytest.raises(InputError, match="pickle") as caught:
            load_weights(tmp_path / name)
        assert caught.value.exit_code == 3
        assert "safetensors" in caught.value.hint
    with pytest.raises(InputError, match="damaged"):
        load_weights(tmp_path / "b.safetensors")


def test_damaged_and_foreign_files_are_input_errors(tmp_path, trained):
    whole = trained.read_bytes()
    cases = {
        "short": whole[: len(whole) // 2],
        "header": whole[:40],
        "text": b"not a model at all, just some text",
        "huge": struct.pack("<Q", 2**60) + b"{}",
        "list": struct.pack("<Q", 2) + b"[]",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            load_weights(tmp_path / name)
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="not a network of hsfuse"):
        load_weights(tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(tmp_path / "absent.safetensors")


def rewrite(path: Path, change) -> Path:
    tensors = load_file(path)
    content = header().to_metadata()
    change(tensors, content)
    target = path.with_name("edited.safetensors")
    save_file(tensors, target, metadata=content)
    return target


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t, m: t.pop("sfe_hsi.skip.weight"), "do not fit"),
        (lambda t, m: t.update(extra=torch.zeros(1)), "do not fit"),
        (lambda t, m: t.update({"sfe_hsi.skip.bias": torch.zeros(3)}), "do not fit"),
        (lambda t, m: t["sfe_hsi.skip.bias"].fill_(float("nan")), "not finite"),
        (lambda t, m: m.update(format_version="99"), "newer version"),
        (lambda t, m: m.update({header_file.FORMAT: "{"}), "damaged"),
        (lambda t, m: m.update({header_file.FORMAT: json.dumps({"name": "x"})}), "damaged"),
        (lambda t, m: m.update(header(centre_nm=CENTRE[:4]).to_metadata()), "4 wavelengths"),
        (lambda t, m: m.update(header(ratios=(1,)).to_metadata()), "impossible"),
        (lambda t, m: m.update(header(config={**CONFIG.to_dict(), "colour": 1}).to_metadata()), "cannot be used"),
        (lambda t, m: m.update(header(config={**CONFIG.to_dict(), "width": 64}).to_metadata()), "do not fit"),
    ],
)
def test_inconsistent_files_are_input_errors(trained, change, text):
    with pytest.raises(InputError, match=text):
        load_weights(rewrite(trained, change))


def test_saving_checks_the_description_and_the_target(tmp_path):
    network = Ssrfn(CONFIG)
    with pytest.raises(UsageError, match="does not match"):
        save_weights(tmp_path / "w.safetensors", network, header(config=replace(CONFIG, width=64).to_dict()))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        save_weights(tmp_path / "file" / "w.safetensors", network, header())


# ---- zoo -----------------------------------------------------------------------------------------------------


def test_every_network_is_listed_with_its_settings():
    models = {model.name: model for model in list_models()}
    assert SsrfnConfig.from_dict(models["ssrfn-paper"].settings) == SsrfnConfig()
    assert GateConfig.from_dict(models["ssrfn-lite"].settings) == GateConfig(displaced=True, change=True)
    assert GateConfig.from_dict(models["ssrfn"].settings).backbone == "ssrfn"
    assert all(models[entry.name].description for entry in listed_methods() if entry.network)


def test_weights_in_the_zoo_are_found_by_name_and_by_path(tmp_path, monkeypatch, trained):
    folder = tmp_path / "zoo" / "tiny"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(trained.read_bytes())
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [tmp_path / "zoo"])
    by_name = find_model("tiny")
    assert by_name.header() == header()
    assert find_model(folder).weights == by_name.weights
    assert find_model(trained).weights == trained
    method = SsrfnMethod(load_named("tiny"))
    assert method.spec.centre_nm == CENTRE
    assert method.spec.ratios == (2, 3)
    assert method.spec.halo_px == 11
    assert method.spec.overlap_px == 4
    assert method.spec.weights_sha256 == header_file.file_sha256(trained)
    with pytest.raises(UsageError, match="no network 'other'") as caught:
        find_model("other")
    assert "tiny" in caught.value.hint


def test_a_network_without_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [tmp_path])
    with pytest.raises(UsageError, match="no trained weights") as caught:
        create_method("ssrfn-lite")
    assert "glp" in caught.value.hint
    assert "train-reduced" in caught.value.hint


def test_weights_of_the_first_version_are_refused(trained):
    """They named no architecture, and all were of networks that corrected a base estimate."""
    with pytest.raises(InputError, match="a former version of hsfuse") as caught:
        load_weights(rewrite(trained, lambda t, m: m.update(format_version="1")))
    assert "weights that come with hsfuse" in caught.value.hint


def test_weights_of_an_architecture_that_is_not_installed_are_named(trained):
    edited = rewrite(trained, lambda t, m: m.update(header(architecture="elsewhere").to_metadata()))
    with pytest.raises(InputError, match="no network architecture 'elsewhere'"):
        load_weights(edited)


def test_weights_from_before_their_architecture_was_renamed_serve(tmp_path):
    config = GateConfig()
    about = header(architecture=ARCHITECTURE, config=config.to_dict(), centre_nm=(), fwhm_nm=(), ratios=(), n_msi=0,
                   msi_bands=(), base="glp")  # fmt: skip
    path = save_weights(tmp_path / "gate.safetensors", Gate(config), about)
    former = rewrite(path, lambda t, m: m.update(replace(about, architecture="ssrfn-gate").to_metadata()))
    assert read_header(former).architecture == ARCHITECTURE == "ssrfn-moe"
    assert create_method("ssrfn-lite", model=former).architecture == ARCHITECTURE


def test_method_checks_bands_and_ratio_of_the_scene(trained):
    def fit(centre, ratio):
        context = FusionContext(ratio, np.asarray(centre), np.full(len(centre), 10.0), None, Psf(1.0))
        rng = np.random.default_rng(0)
        hsi = rng.random((len(centre), 30, 30), np.float32)
        strip = LowResolutionStrip(hsi, hsi[:3].copy(), np.ones((30, 30), bool))
        SsrfnMethod(load_weights(trained)).fit(context, [strip])

    fit(np.add(CENTRE, 3.0), 3)  # within half the spacing
    with pytest.raises(UsageError, match="expects 850"):
        fit([450, 550, 650, 700, 900], 3)
    with pytest.raises(UsageError, match="ratio of 2, 3"):
        fit(CENTRE, 4)
    with pytest.raises(UsageError, match="takes 5 bands"):
        fit(CENTRE[:4], 3)


# ---- bands ---------------------------------------------------------------------------------------------------


@given(shift=st.floats(-3, 3), seed=st.integers(0, 50))
def test_bands_are_matched_by_wavelength_in_any_order(shift, seed):
    rng = np.random.default_rng(seed)
    network = np.arange(400.0, 1000.0, 10.0)
    order = rng.permutation(200)
    scene = (np.arange(200) * 10.0 + 300.0 + shift)[order]
    index = match_bands(network, scene)
    np.testing.assert_allclose(scene[index], network + shift)


def test_bands_that_are_missing_bad_or_shared_are_input_errors():
    table = BandTable.make(np.arange(400.0, 1000.0, 10.0))
    np.testing.assert_array_equal(match_bands([405.0, 700.0], table)[1:], [30])
    with pytest.raises(InputError, match=r"no band for 2 .*1100, 1200"):
        match_bands([500, 600, 1100, 1200], table)
    good = np.ones(60, bool)
    good[10] = False
    with pytest.raises(InputError, match="no band for 1"):
        match_bands([490.0, 500.0, 510.0], BandTable.make(table.centre_nm, good=good))
    with pytest.raises(InputError, match="stand for two"):
        match_bands([500.0, 505.0, 510.0], [502.5, 510.0])
    with pytest.raises(InputError, match="no usable band"):
        match_bands([500.0], BandTable.make([500.0], good=[False]))


def test_reading_a_description_needs_no_torch(trained):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from hsfuse.fusion.nets.header import read_header;"
        "from hsfuse.fusion.nets.zoo import list_models;"
        f"print(read_header(Path({str(trained)!r})).name, len(list_models()) > 0, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["tiny", "True", "False"]


def test_loading_a_gate_loads_no_compiler_of_torch():
    # It takes more than a second and some 80 MB, for numbers that the weights replace.
    import subprocess
    import sys

    path = next(model.weights for model in list_models() if model.name == "ssrfn-lite")
    code = (
        "import sys; from pathlib import Path; from hsfuse.fusion.nets.weights import load_weights;"
        f"load_weights(Path({str(path)!r})); print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_shipped_weights_are_what_their_method_says():
    for model in list_models():
        if model.weights:
            assert read_header(model.weights).config == model.settings
            assert model.card is not None


def test_shipped_weights_tell_no_paths_of_the_machine_that_made_them():
    shipped = [entry for entry in list_models() if entry.weights]
    assert "ssrfn-lite" in {entry.name for entry in shipped}
    for entry in shipped:
        training = json.dumps(read_header(entry.weights).training)
        assert not re.search(r"(?<![\w.])/\w+/", training)
        assert "/tmp/" not in entry.card.read_text()
