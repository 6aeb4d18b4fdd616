"""``hsfuse train-prior``: train a diffusion prior for networks that use one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse.cli.options import with_config
from hsfuse.cli.session import AsJson, ConfigFile, LogFile, LogFormat, NoProgress, Quiet, Session, Verbose
from hsfuse.errors import EXIT_CODES
from hsfuse.workflows.training.prior_settings import TrainPriorConfig

_PANEL_FIELDS = {
    "Network": "bands fold width levels blocks levels_of_noise name weights",
    "Data": "patch validation_share",
    "Training": "minutes steps batch micro_batch validate_every lr ema seed",
    "Files": "overwrite resume checkpoint_minutes tensorboard",
    "Computing": "device threads",
}
_INTERRUPTED = "; the same command with --resume goes on where it stopped"
_PANELS = {name: panel for panel, names in _PANEL_FIELDS.items() for name in names.split()}


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("train-prior", epilog="Exit codes: " + " · ".join(f"{c} {t}" for c, t in EXIT_CODES.items()))
    @with_config(TrainPriorConfig, panels=_PANELS)
    def train_prior(
        images: Annotated[
            list[Path], typer.Argument(help="images with three bands or more, or folders of them (GeoTIFF, .npz cubes)")
        ],
        output: Annotated[Path, typer.Option("-o", "--output", help="the weights: .safetensors")],
        settings: dict[str, Any],
        config: ConfigFile = None,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
        log_format: LogFormat = None,
        log_file: LogFile = None,
    ) -> None:
        """Train a diffusion prior on single images: what the ground looks like, without any pairs."""
        # Of several processes that train together, only the first one talks.
        follower = os.environ.get("RANK", "0") != "0"
        session = Session(verbose, quiet or follower, as_json and not follower, no_progress, log_format, log_file,
                          interrupted=_INTERRUPTED)  # fmt: skip
        with session.errors():
            resolved = TrainPriorConfig.resolve(config, **settings)
            from hsfuse.workflows.train_prior import train_prior as run

            result = run(images, output, resolved, progress=session.progress)
            if not follower:
                session.show(result.summary, lambda: result_text(result.summary))


def result_text(summary: dict[str, Any]) -> str:
    """Describe a training in a few lines."""
    scores, before = summary["validation"], summary["validation_before"]
    return "\n".join(
        [
            f"{summary['output']}  prior of {summary['config']['bands']} bands,"
            f" {summary['parameters'] / 1e6:.2f} M parameters",
            f"  trained     {summary['steps']} steps in {summary['training_seconds']:.0f} s on {summary['device']}"
            f" (best at step {summary['best_step']}; ended by {summary['stopped']})",
            f"  denoising   {before['denoised_db']:.2f} to {scores['denoised_db']:.2f} dB of signal over error"
            f" ({scores['linear_db']:.2f} dB without looking)",
            f"  log         {summary['log']}",
        ]
    )
