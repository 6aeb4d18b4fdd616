"""The gate over the experts of a scene: any bands and ratios, turning the spectral basis, tiles, and never a loss."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_support import RATIO, Pair, make_pair, psnr, shaken

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.degrade.windows import grown
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import CHANGE_IMAGES, FusionContext, FusionMethod, LowResolutionStrip, Quality
from hsfuse.fusion.create import create_method
from hsfuse.fusion.experts.bank import BEST_ONLY, EXPERTS
from hsfuse.fusion.experts.tile import TileExperts, evaluate
from hsfuse.fusion.map.method import RefinedMethod, refined
from hsfuse.fusion.methods.ssrfn.config import BLOCKS, GateConfig
from hsfuse.fusion.methods.ssrfn.description import after_px, base_halo_px, describe, experts_px
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.scene import GateScene, refined_base, tile_state
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.nets.weights import LoadedNetwork, load_named
from hsfuse.fusion.nets.zoo import find_model
from hsfuse.grid import Slice2D
from hsfuse.inference.tiling import TilePlan

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair()


@pytest.fixture(scope="module")
def shipped() -> list[LoadedNetwork]:
    """Of both names, as far as there are weights."""
    return [load_named(name) for name in ("ssrfn-lite", "ssrfn") if find_model(name).weights is not None]


def _fused(method: FusionMethod, pair: Pair, **changes: object) -> np.ndarray:
    method.fit(pair.context(**changes), pair.strips())
    return method.fuse(torch.from_numpy(pair.hsi)[None], torch.from_numpy(pair.msi)[None])[0].numpy()


def _estimate() -> RefinedMethod:
    return RefinedMethod(create_method("glp"))


def test_shipped_weights_gain_with_best(pair: Pair) -> None:
    """On a mixture of materials that no training has seen; docs/quality-benchmark.md has the figures."""
    before = psnr(pair.truth, _fused(_estimate(), pair))
    assert psnr(pair.truth, _fused(create_method("ssrfn-lite", quality="best"), pair)) > before + 0.3


def _scene(
    bands: int, msi: int, ratio: int, side: int = 16
) -> tuple[FusionContext, list[LowResolutionStrip], torch.Tensor]:
    """A simulated pair of any shape, and its truth."""
    rng = np.random.default_rng(bands + msi + ratio)
    rows = np.linspace(0.0, 6.0, side * ratio)
    fields = np.stack([np.sin(rows[:, None] * (1.0 + 0.7 * k) + k) * np.cos(rows * (1.3 + 0.4 * k)) for k in range(4)])
    centre = np.linspace(450.0, 2300.0 if bands > 60 else 1000.0, bands)
    spectra = 0.3 + 0.2 * np.stack([np.sin(centre / (90.0 + 40.0 * k) + k) for k in range(4)])
    truth = (0.3 + 0.15 * np.tensordot(spectra.T, fields, axes=1)).astype(np.float32)
    srf = np.exp(-0.5 * ((centre - np.linspace(480.0, 950.0, msi)[:, None]) / 60.0) ** 2)
    srf /= srf.sum(axis=1, keepdims=True)
    fine = (np.tensordot(srf, truth, axes=1) + 0.003 * rng.standard_normal((msi, *truth.shape[1:]))).astype(np.float32)
    hsi = lowpass_decimate_array(truth, ratio, Psf(1.0))
    hsi = (hsi + 0.003 * rng.standard_normal(hsi.shape)).astype(np.float32)
    low = lowpass_decimate_array(fine, ratio, Psf(1.0))
    strips = [LowResolutionStrip(hsi, low, np.ones(low.shape[1:], bool), fine)]
    context = FusionContext(ratio, centre, np.full(bands, 10.0), srf, Psf(1.0))
    return context, strips, torch.from_numpy(truth)


@pytest.mark.parametrize(
    ("bands", "msi", "ratio"),
    [(8, 4, 3), (30, 1, 3), (62, 4, 2), (100, 4, 3), (150, 9, 4), (230, 10, 3), (40, 4, 6), (5, 4, 3)],
)
def test_the_same_weights_serve_any_bands_msi_and_ratio(
    bands: int, msi: int, ratio: int, shipped: list[LoadedNetwork]
) -> None:
    """Of both names; 62 bands and more reach the short-wave infrared, fewer end at 1000 nm."""
    context, strips, truth = _scene(bands, msi, ratio)
    hsi, fine = torch.from_numpy(strips[0].hsi)[None], torch.from_numpy(strips[0].fine)[None]
    method = GateMethod.from_loaded(shipped[0])
    method.fit(context, strips)
    for loaded in shipped:
        # What is learned from the scene is the same for both.
        method._network = loaded.network
        result = method.fuse(hsi, fine)[0]
        assert result.shape == truth.shape
        assert float((result - truth).square().mean().sqrt()) < 0.01


@pytest.mark.parametrize("backbone", ["plain", "ssrfn"])
def test_the_spectral_basis_does_not_matter(pair: Pair, backbone: str) -> None:
    """Experts, gate and what follows turn with a random rotation of the signal subspace."""
    base = refined_base(create_method("glp"), RATIO)
    base.fit(pair.context(), pair.strips())
    reduced_fit, model = base.take_reduced_fit(), base.scene_model
    assert reduced_fit is not None
    assert model is not None
    space, synthesis = model.space, model.synthesis
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((space.rank, space.rank)))
    turned = replace(
        model, space=replace(space, forward=turn @ space.forward, back=space.back @ turn.T),
        synthesis=replace(synthesis, matrix=synthesis.matrix @ turn.T),
    )  # fmt: skip
    prior = replace(reduced_fit.prior, covariance=turn @ reduced_fit.prior.covariance @ turn.T)
    other = replace(
        reduced_fit, prior=prior, power=turn @ reduced_fit.power @ turn.T,
        hsi_error=turn @ reduced_fit.hsi_error @ turn.T,
    )  # fmt: skip
    gate = _random_gate(backbone)
    hsi, msi = torch.from_numpy(pair.hsi)[None], torch.from_numpy(pair.msi)[None]
    results = []
    for tried, known in ((reduced_fit, model), (other, turned)):
        scene = GateScene.fit(tried, known, "clean", seed=0, device="cpu")
        guide = scene.step.clean(msi)
        cube = base.inner.fuse(hsi, guide)
        with torch.no_grad():
            change = scene.change(tile_state(scene.step, hsi, guide, msi, cube), gate, best=True)
        results.append(cube + mix(scene.step.back, change))
    assert float((results[0] - results[1]).abs().max()) < 1e-3


@pytest.mark.parametrize("backbone", ["plain", "ssrfn"])
def test_any_tiling_gives_the_same(backbone: str) -> None:
    """A backbone with scans sees blocks that lie where they lie in the scene, whatever the tiles are."""
    cols = 120
    wide = make_pair((24, cols), seed=3, fwhm=1.5)  # the wider the blur, the farther the estimate looks
    method = GateMethod(_random_gate(backbone), validate=False)
    method.fit(wide.context(), wide.strips())
    hsi, msi = torch.from_numpy(wide.hsi)[None], torch.from_numpy(wide.msi)[None]
    whole = method.fuse(hsi, msi)
    spec = method.spec
    plan = TilePlan(24, cols, 50, 0, spec.halo_px, spec.multiple_px, padded=spec.padded)
    for tile in plan.row_of_tiles(0):
        part = method.fuse_window(
            hsi[..., *tile.read.slices], msi[..., *tile.read.scaled(RATIO).slices], tile.inner.slices
        )
        assert float((part - whole[..., *tile.blend.scaled(RATIO).slices]).abs().max()) < 1e-4


@pytest.mark.parametrize("coarse", [(6, 6), (7, 30)])
def test_small_scenes_still_work(coarse: tuple[int, int]) -> None:
    small = make_pair(coarse)
    assert np.isfinite(_fused(GateMethod.untrained(quality="best"), small)).all()


def _random_gate(backbone: str = "plain", *, change: bool = False) -> Gate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gate = Gate(GateConfig(backbone=backbone, change=change))  # type: ignore[arg-type]
        if gate.change is not None:
            torch.nn.init.normal_(gate.change.leave.weight, std=0.3)
        # What the experts' weights are made of then varies by 0.03 from pixel to pixel: ten times as much as trained.
        last, std = (gate.backbone.leave, 0.05) if backbone == "plain" else (gate.backbone.network.ffm.head, 0.008)
        torch.nn.init.normal_(last.weight, std=std)
    return gate.eval()


@pytest.mark.parametrize("backbone", ["plain", "ssrfn"])
def test_weights_turn_with_components_and_stay_bounded(backbone: str) -> None:
    gate = _random_gate(backbone)
    state, outputs = torch.randn(1, 6, 9, 9), torch.randn(1, len(EXPERTS), 6, 9, 9)
    strength = torch.tensor([[3.0, 2.0, 1.5, 1.0, 0.7, 0.5]])
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])[:, None, None]
    with torch.no_grad():
        plain, turned = gate(state, outputs, strength, 3), gate(state * signs, outputs * signs, strength, 3)
        assert torch.allclose(plain * signs, turned, atol=1e-5)
        assert float(gate.weights(state, outputs, strength, 3).abs().max()) <= 2.0


@pytest.mark.parametrize(("sign", "used"), [(-1.0, False), (1.0, True)])
def test_the_scene_decides_how_much_of_the_correction_is_used(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, sign: float, used: bool
) -> None:
    monkeypatch.setattr("hsfuse.fusion.methods.ssrfn.scene.LEAST_REDUCED_PIXELS", 0)
    gate = Gate(GateConfig())
    with torch.no_grad():
        # Wrong by far where the sign is turned: every expert is believed the other way round.
        gate.constant[: len(EXPERTS)] *= 1.0 if used else 20.0 * sign
    method = GateMethod(gate, quality="best")
    found = _fused(method, pair)
    validation = method.diagnostics.validation
    assert validation is not None
    assert (float(validation.share.max()) > 0.0) is used
    assert (validation.gain_db > 0.0) is used
    if not used:
        assert np.allclose(found, _fused(_estimate(), pair), atol=1e-6)


def test_a_small_scene_holds_a_large_correction_back(pair: Pair) -> None:
    """Nothing can be tried on it at reduced resolution: what the scene does not support costs less."""
    before = psnr(pair.truth, _fused(_estimate(), pair))
    gate = Gate(GateConfig())
    with torch.no_grad():
        # Every expert is believed the other way round.
        gate.constant[: len(EXPERTS)] *= -2.0
    lost, kept = (
        before - psnr(pair.truth, _fused(GateMethod(gate, quality="best", validate=validate), pair))
        for validate in (False, True)
    )
    assert lost > 1.0
    assert kept < 0.9 * lost


def test_standard_asks_one_pass_of_nonlocal_bayes(pair: Pair) -> None:
    """It moves the estimate towards the truth, says nothing where nothing is looked at, and costs no other expert."""
    method = GateMethod(_random_gate(), validate=False)
    method.fit(pair.context(), pair.strips())
    found = method.expert_outputs(torch.from_numpy(pair.hsi)[None], torch.from_numpy(pair.msi)[None])
    assert found is not None
    scene, tile, _, state, everything = found
    _, said = evaluate(scene.bank, tile, best=False)
    number = EXPERTS.index("non-local, loose")
    silent = [index for index, name in enumerate(EXPERTS) if name in BEST_ONLY]
    assert number not in silent
    assert not said[:, silent].any()
    others = [index for index in range(len(EXPERTS)) if index not in (*silent, number)]
    assert torch.allclose(said[:, others], everything[:, others], atol=1e-5)
    constant = scene.step.forward @ scene.step.mean
    truth = mix(scene.step.forward, torch.from_numpy(pair.truth)[None]) - constant[:, None, None]
    miss = mix(scene.bank.canonical.into, truth) - state
    assert float((miss - said[:, number]).square().mean()) < 0.95 * float(miss.square().mean())
    with torch.no_grad():
        part = TileExperts(scene.bank, tile, best=False, shown=(slice(2, 7), slice(3, 8))).whole()[:, number]
    inner = part[..., 6:21, 9:24].clone()
    part[..., 6:21, 9:24] = 0.0
    assert inner.any()
    assert not part.any()


def test_best_takes_out_what_noise_its_result_has_left(pair: Pair) -> None:
    """What a window shows is what the whole shows there; standard does without."""
    method = GateMethod(_random_gate(), quality="best", validate=False)
    with_it = _fused(method, pair)
    assert method._scene is not None
    assert method._scene.last_pass
    hsi, msi = torch.from_numpy(pair.hsi)[None], torch.from_numpy(pair.msi)[None]
    window = (slice(10, 17), slice(12, 20))
    part = method.fuse_window(hsi, msi, window)[0].numpy()
    assert np.abs(part - with_it[:, 30:51, 36:60]).max() < 1e-4
    method._scene = replace(method._scene, last_pass=False)
    without = method.fuse(hsi, msi)[0].numpy()
    assert psnr(pair.truth, with_it) > psnr(pair.truth, without) + 0.05
    standard = GateMethod(_random_gate(), validate=False)
    standard.fit(pair.context(), pair.strips())
    assert standard._scene is not None
    assert not standard._scene.last_pass


def test_a_little_trust_changes_a_little(pair: Pair) -> None:
    method = GateMethod(_random_gate(), validate=False)
    method.fit(pair.context(), pair.strips())
    hsi, msi = torch.from_numpy(pair.hsi)[None], torch.from_numpy(pair.msi)[None]
    found = method.expert_outputs(hsi, msi)
    assert found is not None
    scene, tile, _, _, _ = found
    plain, canonical = tile.estimate - tile.start, scene.bank.canonical
    with torch.no_grad():
        full = scene.change(tile, method.network, best=False)
        for share in (0.0, 0.25, 1.0):
            trust = torch.full((canonical.count,), share)
            change = replace(scene, trust=trust).change(tile, method.network, best=False)
            kept, wanted = (mix(canonical.into, x - plain) for x in (change, full))
            assert torch.allclose(kept, share * wanted, atol=1e-3)


@pytest.mark.parametrize("backbone", ["plain", "ssrfn"])
def test_what_is_known_of_the_change_matters_where_it_is_alone(backbone: str) -> None:
    """In any tiling; where nothing changed the head adds exactly nothing."""
    cols = 60
    wide = make_pair((24, cols), seed=3)
    gate = _random_gate(backbone, change=True)
    method = GateMethod(gate, validate=False)
    method.fit(wide.context(), wide.strips())
    hsi, msi = torch.from_numpy(wide.hsi)[None], torch.from_numpy(wide.msi)[None]
    aware = method.change_aware()
    assert aware is not None
    without = method.fuse(hsi, msi)
    nothing = msi.new_zeros((1, CHANGE_IMAGES, *msi.shape[2:]))
    assert torch.equal(aware.fuse(hsi, torch.cat([msi, nothing], dim=1)), without)
    change = nothing.clone()
    change[..., 30:48, 90:120] = 1.0
    told = torch.cat([msi, change], dim=1)
    whole = aware.fuse(hsi, told)
    differs = (whole - without).abs().amax(dim=(0, 1))
    assert float(differs[30:48, 90:120].max()) > 1e-4
    assert float(differs[:, :40].max()) < 1e-6
    spec = method.spec
    plan = TilePlan(24, cols, 24, 0, spec.halo_px, spec.multiple_px, padded=spec.padded)
    for tile in plan.row_of_tiles(0):
        part = aware.fuse_window(
            hsi[..., *tile.read.slices], told[..., *tile.read.scaled(RATIO).slices], tile.inner.slices
        )
        assert float((part - whole[..., *tile.blend.scaled(RATIO).slices]).abs().max()) < 1e-4


def test_what_displacement_costs_beside_noise_chooses_the_weights(pair: Pair) -> None:
    """Twentieths of a pixel are found in both pairs; in one they are next to nothing beside the noise."""
    displaced = []
    for one in (shaken(pair, 0.06), shaken(make_pair(noise=0.001), 0.05)):
        method = GateMethod(Gate(GateConfig(displaced=True)))
        method.fit(one.context(), one.strips())
        record = method.diagnostics.refinement
        assert record is not None
        assert record.displacement_px >= 0.05
        displaced.append(method.displaced)
    assert displaced == [False, True]
    # Without noise whatever departs from the model gains by a displacement; the scene's slopes show none.
    model = method.scene_model
    assert model is not None
    sharp = replace(model, synthesis=replace(model.synthesis, jitter_px=0.002))
    assert GateScene.displaced(record, model)
    assert not GateScene.displaced(record, sharp)
    # A whole simulated scene: its co-registration leaves little, and its windows can be tried.
    assert not GateScene.displaced(replace(record, displacement_gain_db=0.8, displacement_px=0.05), model)
    assert GateScene.displaced(replace(record, displacement_gain_db=0.8, displacement_px=0.1), model)


def test_displaced_pairs_have_weights_of_their_own(pair: Pair) -> None:
    pair = shaken(pair)
    estimate = _fused(_estimate(), pair)
    without = GateMethod(Gate(GateConfig()), quality="best")
    assert np.allclose(_fused(without, pair), estimate, atol=1e-6)
    validation = without.diagnostics.validation
    assert validation is not None
    assert float(validation.share.max()) == 0.0
    gate = Gate(GateConfig(displaced=True))
    gained = _fused(GateMethod(gate), pair)
    assert not np.allclose(gained, estimate, atol=1e-6)
    with torch.no_grad():
        gate.constant.zero_()
    assert np.array_equal(_fused(GateMethod(gate), pair), gained)


def test_quality_and_errors() -> None:
    method = GateMethod.untrained()
    assert refined(method, "fast").spec.name == "glp"
    best = refined(method, "best")
    assert isinstance(best, GateMethod)
    assert best.spec.halo_px > method.spec.halo_px
    with pytest.raises(HsfuseError, match="fit"):
        method.fuse(torch.zeros(1, 9, 6, 6), torch.zeros(1, 4, 18, 18))
    with pytest.raises(UsageError, match="precision"):
        GateMethod.untrained(precision="bf16")


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("quality", ["standard", "best"])
def test_what_a_tile_reads_holds_all_that_its_blocks_look_at(quality: Quality, filtered: bool) -> None:
    """Wherever the window lies: blocks of what the last estimate looks at, their context, what experts see of it."""
    config = GateConfig(width=16, backbone="ssrfn")
    spec = describe(
        config, BLOCKS, name="ssrfn", sha256=None, quality=quality, ratio=RATIO, filtered=filtered, estimate=None
    )  # fmt: skip
    beyond = experts_px(quality, RATIO) + base_halo_px(RATIO, filtered=filtered)
    plan = TilePlan(300, 300, 300, 0, spec.halo_px, spec.multiple_px, padded=False)
    for start in range(100, 120):
        window = (slice(start, start + 37), slice(start + 5, start + 44))
        read = plan.around(Slice2D(start, start + 37, start + 5, start + 44))
        after = grown(window, after_px(quality, RATIO), (300, 300))
        needed = grown(BLOCKS.needed(after, (300, 300)), beyond, (300, 300))
        assert read.row0 <= needed[0].start
        assert needed[0].stop <= read.row1
        assert read.col0 <= needed[1].start
        assert needed[1].stop <= read.col1


def test_holes_of_the_hsi_hold_no_small_scene_back(caplog: pytest.LogCaptureFixture) -> None:
    small = make_pair((40, 48))
    strip = small.strips()[0]
    valid = strip.valid.copy()
    valid[6:16, 10:30] = False
    beside = np.where(valid, small.hsi, small.hsi.max()).astype(np.float32)

    def shares(hole: LowResolutionStrip) -> list[float]:
        caplog.clear()
        method = create_method("ssrfn-lite")
        with caplog.at_level(logging.INFO):
            method.fit(small.context(), [hole])
        (told,) = (one.getMessage() for one in caplog.records if "components get these shares" in one.getMessage())
        return [float(share.rstrip(".")) for share in told.split(": ")[-1].split(", ")]

    # What is held out of the refinement still counts the hole, which costs the first component some of its share; where
    # the guard counted it too, components differed by 0.4 and 0.5.
    np.testing.assert_allclose(shares(replace(strip, hsi=beside, valid=valid)), shares(strip), atol=0.2)
