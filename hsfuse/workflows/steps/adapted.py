"""`hsfuse run --adapt`: the network that fuses a scene is trained on that scene first, once per output.

The adapted weights lie beside the output (``<output>.adapted.safetensors``). They get that name together with the cube
that they make, so that weights and cube always belong together; until then they lie there under a hidden name. An
interrupted run goes on with them: training anew would give other weights, and rows of two networks in one cube. They
also serve as weights (``--model``) for neighbouring scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsfuse.config import RunConfig
from hsfuse.errors import DisplacedPairError, HsfuseError, InputError, OutputError, OverlapError, UsageError
from hsfuse.fusion.base import NetworkMethod
from hsfuse.fusion.create import create_method
from hsfuse.fusion.nets.header import read_header
from hsfuse.fusion.registry import fallback_method
from hsfuse.inference.budget import make_budget
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.outputs import part_name
from hsfuse.progress import Progress
from hsfuse.resources import Resources
from hsfuse.workflows.steps.behind_method import may_calibrate, refinement_quality
from hsfuse.workflows.steps.companion import check_companion
from hsfuse.workflows.steps.methods import ChosenMethod
from hsfuse.workflows.steps.precision import network_precision
from hsfuse.writers import WriteOptions, earlier_identity, journal_folder, run_identity
from hsfuse.writers.journal import MANIFEST_NAME
from hsfuse.writers.provenance import InputIdentity

_log = get_logger(__name__)

_RECORD = "adaptation"
_SCENE_SHARE = 0.25
"""Share of the memory budget that the scene may take while training; a larger one is kept on the disk."""


@dataclass(frozen=True)
class AdaptedMethod:
    """A method with adapted weights, and what adapting brought (plain values for the report; empty: not adapted)."""

    chosen: ChosenMethod
    record: dict[str, Any]


def adapted_path(output: Path) -> Path:
    """Name of the adapted weights of an output."""
    return output.with_name(output.name + ".adapted.safetensors")


def unpublished_path(output: Path) -> Path:
    """Name of the adapted weights of an output until their cube is finished."""
    return part_name(adapted_path(output))


def remove_unpublished(output: Path) -> None:
    """Remove the adapted weights that an interrupted run left, once another cube is there."""
    with suppress(OSError):
        unpublished_path(output).unlink(missing_ok=True)


def check_adapted_path(output: Path, options: WriteOptions) -> None:
    """Check the place of the adapted weights before any work; see :func:`.companion.check_companion`."""
    check_companion("file of adapted weights", (adapted_path(output), unpublished_path(output)), options, _are_weights)


def _are_weights(path: Path) -> bool:
    try:
        read_header(path)
    except InputError:
        return False
    return True


def adapt_to_scene(
    chosen: ChosenMethod,
    scene: FusionScene,
    output: Path,
    inputs: Sequence[InputIdentity],
    config: RunConfig,
    resources: Resources,
    progress: Progress,
) -> AdaptedMethod:
    """Adapt a network to a scene, or take up the weights of the interrupted run that is resumed.

    A network that was picked automatically stays as it is where the scene cannot be learned from, and any network where
    HSI and guide are displaced locally.

    Parameters
    ----------
    chosen
        A network with trained weights, not yet fitted.
    scene
        Prepared pair with the network's bands.
    output
        The cube; the weights are written beside it, under a hidden name until it is finished.
    inputs
        Identity of the products.
    config
        Settings, with ``adapt``.
    resources
        What may be used.
    progress
        Where to show progress.

    Raises
    ------
    InputError, UsageError
        The user named the network, and the scene is too small to learn from, or has other bands.
    OutputError
        The weights to resume with are missing or of another run, or cannot be written.
    """
    spec = chosen.method.spec
    identity = run_identity(config.identity(), inputs, f"{spec.name} {spec.weights_sha256}")
    # A cube that was made without adapting left no weights.
    fallback = run_identity(config.identity(), inputs, fallback_method())
    unadapted = config.resume and earlier_identity(output, config.format) in (identity, fallback)
    left = _left_by(output, identity, replacing=config.overwrite, unadapted=unadapted) if config.resume else None
    if left is None:
        path = unpublished_path(output)
        try:
            record = _train(chosen, scene, path, identity, config, resources, progress)
        except (InputError, UsageError, DisplacedPairError) as error:
            # How the pair lies is found out late, and no fault of whoever asked.
            if not (chosen.automatic or isinstance(error, DisplacedPairError)):
                raise
            _log.warning("%s --adapt had no effect.", error.message)
            return AdaptedMethod(chosen, {})
    else:
        path, record = left
        _log.info("Going on with the weights that were adapted before, %s.", path)
    # From the file also right after training: a resumed run must see the very same numbers.
    name = chosen.name
    method = create_method(name, model=path, precision=network_precision(name, config.precision, resources.device))
    public = {key: value for key, value in record.items() if key != "identity"} | {"weights": str(adapted_path(output))}
    gain_db = record["after"].get("gain_db")
    return AdaptedMethod(replace(chosen, method=method, header=read_header(path), adapted_gain_db=gain_db), public)


def _left_by(
    output: Path, identity: str, *, replacing: bool, unadapted: bool
) -> tuple[Path, dict[str, Any]] | None:  # fmt: skip
    """Weights that a run of the same identity left, and their record; None where nothing was left.

    ``replacing``: a finished output, and the weights of another run, are there to be replaced. ``unadapted``: the cube
    that is there was made without such weights.
    """
    path = next((path for path in (unpublished_path(output), adapted_path(output)) if path.exists()), None)
    if path is None:
        if not unadapted and ((output.exists() and not replacing) or (journal_folder(output) / MANIFEST_NAME).exists()):
            raise OutputError(
                f"The adapted weights of the run to resume, {adapted_path(output)}, are missing.",
                hint="Start anew: leave out --resume, or use --overwrite.",
            )
        return None
    record = read_header(path).training.get(_RECORD)
    if not isinstance(record, dict) or record.get("identity") != identity:
        if replacing:
            return None
        raise OutputError(
            f"The adapted weights {path} come from a run with other inputs or settings.",
            hint="Repeat that run's command with --resume, or start anew without.",
        )
    return path, record


def _train(
    chosen: ChosenMethod, scene: FusionScene, path: Path, identity: str, config: RunConfig, resources: Resources,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    from hsfuse.fusion.nets.weights import save_weights
    from hsfuse.workflows.steps.adapt import adapt

    method, header = chosen.method, chosen.header
    if not isinstance(method, NetworkMethod) or header is None:
        raise HsfuseError("Only a network with trained weights can be adapted.")
    raw = scene.grid.height * scene.grid.width * (len(scene.bands) + len(scene.msi.band_names)) * 4
    large = raw > _SCENE_SHARE * make_budget(replace(resources, device="cpu")).host
    try:
        result = adapt(
            method, scene, minutes=config.adapt, device=resources.device, seed=config.seed, progress=progress,
            precision=config.precision if config.precision in ("fp32", "bf16") else "auto",
            scratch=path.parent if large else None, base=header.base, calibrate=may_calibrate(config),
            quality=refinement_quality(config) or "standard",
        )  # fmt: skip
    except DisplacedPairError:
        raise
    except (InputError, OverlapError) as error:
        raise InputError(
            f"The network cannot be adapted: {error.message}",
            hint="Leave out --adapt, or give it more ground: 100 x 100 HSI pixels and more (--aoi) without gaps, "
            "clouds and changes.",
        ) from error
    record = {
        "identity": identity, "minutes": config.adapt, "scene": scene.hsi.info.name,
        "from_sha256": method.spec.weights_sha256, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **result.to_json(),
    }  # fmt: skip
    save_weights(path, method.network.float(), replace(header, training={**header.training, _RECORD: record}))
    return record


def adaptation_text(record: dict[str, Any]) -> str:
    """One line for the report."""
    before, after = record["before"], record["after"]
    text = f"{record['steps']} steps in {record['seconds']:.0f} s: {short_adaptation_text(record)}"
    if "base_psnr_db" not in after:
        return text
    return (
        f"{text}; {before['sam_deg']:.2f} to {after['sam_deg']:.2f} degrees (base estimate: "
        f"{after['base_psnr_db']:.2f} dB, {after['base_sam_deg']:.2f} degrees)"
    )


def short_adaptation_text(record: dict[str, Any]) -> str:
    """What adapting brought, in a few words; networks are scored in PSNR, or in what they gain over their estimate."""
    before, after = record["before"], record["after"]
    where = "on held-out parts of the scene, at reduced resolution"
    if "psnr_db" in after:
        return f"{before['psnr_db']:.2f} to {after['psnr_db']:.2f} dB {where}"
    return f"gain over the estimate without network {before['gain_db']:+.2f} to {after['gain_db']:+.2f} dB {where}"
