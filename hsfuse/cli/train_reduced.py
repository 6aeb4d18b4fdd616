"""``hsfuse train-reduced``: train or adapt a network at reduced resolution."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse.cli.options import with_config
from hsfuse.cli.session import AsJson, ConfigFile, LogFile, LogFormat, NoProgress, Quiet, Session, Verbose
from hsfuse.config import CoregisterConfig, TrainConfig
from hsfuse.errors import EXIT_CODES

_PANEL_FIELDS = {
    "Network": "method network_settings init name weights",
    "Data": "generated generated_share generated_px remixed structure bands vnir_swir_cut_nm guide s2_bands ratio"
    " psf_fwhm allow_radiometry_mismatch cloud_mask cloud_dilate_px augment patch window validation_share gap"
    " validation_windows",
    "Training": "recipe minutes steps epochs batch micro_batch validate_every patience lr loss schedule ema clip seed",
    "Co-registration": " ".join(CoregisterConfig.model_fields),
    "Files": "overwrite resume checkpoint_minutes tensorboard",
    "Computing": "device precision recompute deterministic threads verify",
}
_INTERRUPTED = "; the same command with --resume goes on where it stopped"
_PANELS = {name: panel for panel, names in _PANEL_FIELDS.items() for name in names.split()}


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("train-reduced", epilog="Exit codes: " + " · ".join(f"{c} {t}" for c, t in EXIT_CODES.items()))
    @with_config(TrainConfig, panels=_PANELS)
    def train_reduced(
        output: Annotated[Path, typer.Option("-o", "--output", help="the weights: .safetensors")],
        settings: dict[str, Any],
        scenes: Annotated[
            list[Path] | None,
            typer.Argument(
                help="PRISMA SENTINEL2 [PRISMA SENTINEL2 ...], cubes alone (.tif, ENVI, .npz with cube and"
                " wavelength_nm; their MSI is simulated), or one .csv with hsi,msi a line"
            ),
        ] = None,
        config: ConfigFile = None,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
        log_format: LogFormat = None,
        log_file: LogFile = None,
    ) -> None:
        """Train a network on your scenes at reduced resolution (Wald's protocol)."""
        # Of several processes that train together, only the first one talks.
        follower = os.environ.get("RANK", "0") != "0"
        session = Session(verbose, quiet or follower, as_json and not follower, no_progress, log_format, log_file,
                          interrupted=_INTERRUPTED)  # fmt: skip
        with session.errors():
            resolved = TrainConfig.resolve(config, **settings)
            shown = session.progress
            from hsfuse.workflows.train_reduced import train_reduced as train

            result = train(scenes or [], output, resolved, progress=shown)
            if not follower:
                session.show(result.summary, lambda: result_text(result.summary))


def result_text(summary: dict[str, Any]) -> str:
    """Describe a training in a few lines."""
    stopped = summary["stopped"]
    return "\n".join(
        [
            f"{summary['output']}  {summary['network']}, {summary['parameters'] / 1e6:.2f} M parameters",
            f"  trained     {summary['steps']} steps in {summary['training_seconds']:.0f} s on {summary['device']}"
            f" (best at step {summary['best_step']}; ended by {stopped}), {summary['megapixels_per_second']:.3g} Mpx/s",
            *_scores(summary["validation"]),
            f"  log         {summary['log']}",
        ]
    )


def _scores(scores: dict[str, Any]) -> list[str]:
    """Networks are scored in PSNR, or in what they gain over the estimate that they start from."""
    gain = f"gain {scores['gain_db']:+.2f} dB, at worst {scores['worst_gain_db']:+.2f} dB"
    if "psnr_db" not in scores:
        return [f"  validation  {gain}, over the estimate without network"]
    return [
        f"  validation  PSNR {scores['psnr_db']:.2f} dB, SAM {scores['sam_deg']:.2f} deg",
        f"  base        PSNR {scores['base_psnr_db']:.2f} dB, SAM {scores['base_sam_deg']:.2f} deg  ({gain})",
    ]
