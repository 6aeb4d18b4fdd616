"""Which method fuses the scene, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hsfuse.config import RunConfig
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip
from hsfuse.fusion.create import create_method
from hsfuse.fusion.diagnostics import MethodDiagnostics
from hsfuse.fusion.map.prior import fresh_copy
from hsfuse.fusion.nets.band_matching import match_bands
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.zoo import find_model
from hsfuse.fusion.registry import METHODS, automatic_methods, fallback_method, is_network, uses_guide
from hsfuse.fusion.two_step import TwoGuides, TwoStepMethod
from hsfuse.inference.fallback import INTERPOLATION, doubt_of, interpolated_because
from hsfuse.inference.few_bands import images_differ
from hsfuse.inference.joined_guide import JoinedGuide
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.readers.base import MultispectralProduct
from hsfuse.sensors.sentinel2 import BANDS_ALL
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.behind_method import in_place_of, with_refinement_and_guards
from hsfuse.workflows.steps.inputs import Pair
from hsfuse.workflows.steps.precision import network_precision

_log = get_logger(__name__)

MIN_GAIN_DB = 0.05
"""A network must gain so much over its base estimate on the scene itself to be worth its time and risk."""


@dataclass(frozen=True)
class ChosenMethod:
    """A method and one sentence that says why it was chosen.

    Attributes
    ----------
    method
        Not yet fitted until :func:`fit_method` was called.
    reason
        For the report.
    automatic
        Whether another method may take its place when the scene is outside what it knows.
    header
        What the weights of a network say about themselves.
    adapted_gain_db
        Of a network that was adapted to the scene: its gain over the base estimate on strips that it was not adapted
        on.
    name
        In the registry of methods; weights may carry another one.
    doubt
        Why the scene is interpolated instead of fused by the method that was wanted; a sentence, or empty.
    """

    method: FusionMethod
    reason: str
    automatic: bool = False
    header: NetworkHeader | None = None
    adapted_gain_db: float | None = None
    name: str = ""
    doubt: str = ""

    @property
    def network(self) -> bool:
        """Whether it is a network."""
        return self.method.spec.kind == "network"

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """What the method found out about the scene; empty before the fit."""
        return self.method.diagnostics


def choose_method(config: RunConfig, device: str = "cpu") -> ChosenMethod:
    """Pick the method that the user named; with ``auto`` the best network that is proven, else the classical fallback.

    Whether a network picked automatically suits the scene is seen later, by :func:`suit_pair` and
    :func:`fit_method`.

    Raises
    ------
    UsageError, InputError
        The method is unknown, a network lacks weights, or an option does not fit the method.
    """
    name = config.method
    if config.prior is not None and not takes_prior(name):
        raise UsageError(
            f"The method '{name}' takes no --prior.", hint="Name one that samples a prior; `hsfuse models` lists them."
        )
    if name == "auto":
        if config.model is not None:
            raise UsageError("--model needs --method.", hint="Name the network that the weights belong to.")
        return _automatic(config, device)
    if not is_network(name):
        if config.model is not None:
            raise UsageError(
                f"The method '{name}' takes no --model.", hint="Weights belong to networks; `hsfuse models` lists them."
            )
        if config.precision not in ("auto", "fp32"):
            raise UsageError(
                f"The method '{name}' takes no --precision.",
                hint="Half precision belongs to networks; `hsfuse models` lists them.",
            )
        method = create_method(name)
        if config.adapt is not None:
            raise UsageError(
                f"The method '{name}' cannot be adapted: it is no network and learns from every scene as it is.",
                hint="Leave out --adapt, or use a network.",
            )
        return ChosenMethod(method, "Chosen with --method.", name=name)
    header = find_model(config.model or name).header()
    method = _network(name, config, device)
    return ChosenMethod(method, "Chosen with --method.", header=header, name=name)


def _network(name: str, config: RunConfig, device: str) -> FusionMethod:
    precision = network_precision(name, config.precision, device)
    options: dict[str, Any] = {} if config.model is None else {"model": config.model}
    if config.prior is not None:
        options["prior"] = config.prior
    return create_method(name, **options, precision=precision)


def takes_prior(name: str) -> bool:
    """Whether a method samples a diffusion prior."""
    network = METHODS.get(name).network if name in METHODS else None
    return network is not None and network.takes_prior


def _automatic(config: RunConfig, device: str) -> ChosenMethod:
    doubts: list[str] = []
    names = _worth_trying(config)
    if not names and automatic_methods("network"):
        plain = "--guide pan+s2" if config.guide == "pan+s2" else "--quality plain"
        reason = (
            f"{_spare_name()}, because with --quality {config.quality} no network gains enough over it to be worth its "
            "time (docs/choosing.md)."
            if config.quality != "plain"
            else f"{_spare_name()}, because networks refine what it makes, and {plain} leaves that out."
        )
        return _fall_back(reason, config, automatic=False)
    for name in names:
        try:
            header = find_model(name).header()
            if header is None:
                continue
            if not _proven(header):
                doubts.append(f"'{name}' gained nothing over its base estimate in training")
                continue
            method = _network(name, config, device)
        except HsfuseError as error:
            # The weights belong to the installation, not to the user's job: it must not fail with them.
            _log.warning("The network '%s' is not used: %s", name, error.message)
            doubts.append(f"the weights of '{name}' cannot be used")
            continue
        reason = f"Network '{name}'; a test on the scene itself decides whether it is used."
        return ChosenMethod(method, reason, automatic=True, header=header, name=name)
    why = " and ".join(doubts) if doubts else "no network has trained weights"
    return _fall_back(f"{_spare_name()}, because {why}.", config, automatic=False)


def _worth_trying(config: RunConfig) -> tuple[str, ...]:
    """Networks that ``auto`` tries, in their order.

    With a step behind the method: networks whose own refinement gains over it with this quality. With nothing behind:
    networks that have no refinement of their own. Where they are adapted to the scene: all.
    """
    names = automatic_methods("network")
    if config.adapt is not None:
        return names
    refining = {name: entry.refines_with for name in names if (entry := METHODS.get(name).network) is not None}
    if config.quality == "plain":
        return tuple(name for name, qualities in refining.items() if not qualities)
    return tuple(name for name, qualities in refining.items() if config.quality in qualities)


def _proven(header: NetworkHeader) -> bool:
    """Whether the training's own validation says that the network is better than its base estimate."""
    scores = header.training.get("validation")
    gain = scores.get("gain_db") if isinstance(scores, dict) else None
    return isinstance(gain, int | float) and gain >= MIN_GAIN_DB


def _fall_back(reason: str, config: RunConfig, *, automatic: bool = True) -> ChosenMethod:
    unused = [f"--{name}" for name, value in (("adapt", config.adapt), ("precision", config.precision))
              if value not in (None, "auto", "fp32")]  # fmt: skip
    if unused:
        _log.warning("%s had no effect: no network is used.", " and ".join(unused))
    if automatic:
        _log.info("%s", reason)
    return ChosenMethod(create_method(fallback_method()), reason, name=fallback_method())


def _spare_name() -> str:
    return fallback_method().upper()


def suit_pair(chosen: ChosenMethod, pair: Pair, config: RunConfig) -> ChosenMethod:
    """Check a network against an open pair, before minutes of co-registration.

    A network that was picked automatically gives way to the classical fallback when the pair is outside what it was
    trained for.

    Raises
    ------
    UsageError, InputError
        A network that the user named does not take the pair's bands, ratio or MSI; SRF consistency is on but the
        MSI's responses are unknown.
    """
    if config.srf_weight > 0 and pair.msi.responses is None:
        raise UsageError(
            "--srf-weight needs the spectral responses of the MSI, which are not known.",
            hint="Leave out --srf-weight, or give an MSI with known responses.",
        )
    if chosen.header is None:
        return chosen
    name = chosen.method.spec.name
    wanted = _own_bands(chosen, config)
    if chosen.automatic and wanted:
        return _fall_back(f"{_spare_name()}, because {wanted} and the network '{name}' has bands of its own.", config)
    if wanted:
        _log.warning("--bands is not used: %s has bands of its own.", name)
    try:
        msi, ratio = first_step(pair)
        check_network(chosen.header, msi.band_names, ratio, pair.hsi.bands, strict=chosen.automatic)
    except HsfuseError as error:
        if not chosen.automatic:
            raise
        text = error.message[:1].lower() + error.message[1:].rstrip(".")
        return _fall_back(
            f"{_spare_name()}, because the scene is outside what the network '{name}' was trained on: {text}.", config
        )
    return chosen


def first_step(pair: Pair) -> tuple[MultispectralProduct, int]:
    """Guide and ratio that the method has which the user chose: of two guides, those of the multispectral one."""
    guide = pair.msi
    return (guide.coarse, pair.ratio // guide.factor) if isinstance(guide, JoinedGuide) else (guide, pair.ratio)


def _own_bands(chosen: ChosenMethod, config: RunConfig) -> str:
    """What the user asked for that contradicts the network's bands; empty when nothing does."""
    own = chosen.method.spec.centre_nm
    if own is None or "bands" not in config.model_fields_set or config.bands == str(len(own)):
        return ""
    return f"--bands {config.bands} was asked for"


def check_network(
    header: NetworkHeader, msi_names: Sequence[str], ratio: int, bands: BandTable | None, *, strict: bool = False
) -> None:
    """Raise UsageError or InputError where a network cannot take a pair: MSI bands, ratio, HSI bands.

    Parameters
    ----------
    header
        Of the network's weights.
    msi_names, ratio, bands
        Of the pair; None where any bands do.
    strict
        Whether MSI bands of another naming are a doubt; otherwise they are taken for what the user says they are.
    """
    wanted, names = header.msi_bands, tuple(msi_names)
    comparable = bool(wanted) and (strict or all(name in BANDS_ALL for name in names))
    if (header.n_msi and header.n_msi != len(names)) or (comparable and wanted != names):
        raise UsageError(
            f"The network '{header.name}' takes the MSI bands {', '.join(wanted) or header.n_msi}, the image brings "
            f"{', '.join(names)}.",
            hint=f"Use the --s2-bands that it was trained with, or --method {fallback_method()}.",
        )
    if header.ratios and ratio not in header.ratios:
        raise UsageError(
            f"The network '{header.name}' was trained for a ratio of {' and '.join(map(str, header.ratios))}, the "
            f"scene needs {ratio}.",
            hint=f"Use --method {fallback_method()}, or train a network for this ratio.",
        )
    if bands is not None and header.centre_nm:
        match_bands(header.centre_nm, bands)


def in_steps(chosen: ChosenMethod, pair: Pair) -> ChosenMethod:
    """Put a second step behind the method where a panchromatic guide follows the multispectral one.

    A classical method serves in both; behind a network, which knows its own ratio and bands, the fallback does.
    """
    guide = pair.msi
    if not isinstance(guide, JoinedGuide):
        return chosen
    second = fallback_method() if chosen.network else chosen.name
    guides = TwoGuides(guide.n_coarse, pair.ratio // guide.factor, guide.factor)
    reason = f"{chosen.reason} Panchromatic step: {second}."
    return replace(chosen, method=TwoStepMethod(chosen.method, create_method(second), guides), reason=reason)


def without_guide(chosen: ChosenMethod, bands: int) -> ChosenMethod:
    """Return the interpolation, in place of a method whose guide shows something else than the HSI's ``bands``."""
    if not uses_guide(chosen.name):
        return chosen
    reason = f"Interpolation, not '{chosen.name}', because {images_differ(bands)}."
    _log.info("%s", reason)
    return ChosenMethod(create_method(INTERPOLATION), reason, name=INTERPOLATION)


def with_guards(chosen: ChosenMethod, config: RunConfig, scene: FusionScene) -> ChosenMethod:
    """Put the wanted refinement and fidelity guards behind the method."""
    return replace(chosen, method=with_refinement_and_guards(chosen.method, config, scene))


def fit_method(
    chosen: ChosenMethod, config: RunConfig, context: FusionContext, strips: Sequence[LowResolutionStrip]
) -> ChosenMethod:
    """Fit the method; an automatic network gives way to the classical fallback when it gains nothing on the scene.

    Where the scene has so few pixels or bands that no method is sure to be better, it is interpolated.
    """
    if uses_guide(chosen.name):
        why = doubt_of(lambda: fresh_copy(chosen.method), lambda: create_method(INTERPOLATION), context, strips)
        if why:
            return _interpolated(chosen, why, context, strips)
    chosen.method.fit(context, strips)
    found = chosen.diagnostics.calibration
    if found is not None:
        _log.info(
            "The method itself finds a PSF of %.2f HSI pixels and a shift of %.3f rows, %.3f columns that is left.",
            found.psf.fwhm_px, *found.offset_px,
        )  # fmt: skip
    validation = chosen.diagnostics.validation
    if not (chosen.automatic and chosen.network):
        return chosen
    name = chosen.method.spec.name
    if validation is None or validation.windows == 0:
        doubt = "cannot be tested: too little of the scene is clear, unchanged ground"
    else:
        # The test sees what an adapted network was trained on; the strips that it did not see are the stricter judge.
        gain = validation.gain_db
        if chosen.adapted_gain_db is not None:
            gain = min(gain, chosen.adapted_gain_db)
        if gain >= MIN_GAIN_DB:
            state = "" if chosen.adapted_gain_db is None else ", adapted to the scene"
            reason = (
                f"Network '{name}'{state}: at reduced resolution it gains {gain:.2f} dB over {_spare_name()} on this "
                "scene."
            )
            return replace(chosen, reason=reason)
        doubt = f"gains only {gain:.2f} dB over it on this scene at reduced resolution"
    spare = _fall_back(f"{_spare_name()}, because the network '{name}' {doubt}.", config)
    spare = replace(spare, method=in_place_of(chosen.method, spare.method, config, context.ratio))
    spare.method.fit(context, strips)
    return spare


def _interpolated(
    chosen: ChosenMethod, why: str, context: FusionContext, strips: Sequence[LowResolutionStrip]
) -> ChosenMethod:
    """Return the fitted interpolation in place of a method."""
    said = interpolated_because(chosen.name, why)
    _log.warning("%s", said)
    method = create_method(INTERPOLATION)
    method.fit(context, strips)
    reason = f"Interpolation, not '{chosen.name}': {why}."
    return ChosenMethod(method, reason, name=INTERPOLATION, doubt=said)
