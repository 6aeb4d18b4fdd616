"""``hsfuse demo``: simulate, run, score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse.cli.session import AsJson, NoProgress, Quiet, Session, Verbose


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("demo")
    def demo(
        folder: Annotated[Path, typer.Argument(help="where to work")] = Path("demo"),
        size: Annotated[int, typer.Option(help="scene side in HSI pixels (30 m)", min=80)] = 160,
        seed: Annotated[int, typer.Option(help="another seed, another landscape", min=0)] = 0,
        method: Annotated[str, typer.Option(help="fusion method")] = "auto",
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
    ) -> None:
        """Simulate a small pair, two weeks apart, in the true file formats, fuse it, and score it against the truth."""
        session = Session(verbose, quiet, as_json, no_progress)
        with session.errors():
            shown = session.progress
            from hsfuse.workflows.demo import run_demo

            facts = run_demo(folder, size=size, seed=seed, method=method, progress=shown)
            session.show(facts, lambda: demo_text(facts))


def demo_text(facts: dict[str, Any]) -> str:
    """Lay out the scores for reading."""
    columns = ("PSNR", "PSNR_changed", "PSNR_same", "SAM", "ERGAS", "RMSE")
    width = max(len(name) for name in facts["scores"]) + 2
    heads = ("PSNR dB", "changed", "same", "SAM deg", "ERGAS", "RMSE")
    lines = [" " * width + "".join(f"{head:>9}" for head in heads)]
    for name, scores in facts["scores"].items():
        lines.append(f"{name:<{width}}" + "".join(_number(scores[column], column) for column in columns))
    error = facts["coregistration_error_m"]
    lines += [
        *_where_not_to_believe(facts),
        f"co-registration error against the truth: {error['rmse']:.2f} m RMSE (was {error['before_rmse']:.0f} m);"
        f" stated as {facts['coregistration']['rmse_m']:.2f} m",
        f"cube    {facts['output']}",
        f"report  {facts['report']}",
        f"took {facts['seconds']:.0f} s for the main job, peak memory {facts['peak_memory_bytes'] / 1e9:.2f} GB",
    ]
    return "\n".join(lines)


def _where_not_to_believe(facts: dict[str, Any]) -> list[str]:
    """Lines about the ground that differs between both images."""
    changes, found = facts["changes"], facts["changes_found"]
    if not changes or not found:
        return []
    lines = [
        f"where not to believe: {100 * found['marked_share']:.0f} % of the ground is marked as changed in"
        f" {changes['days_apart']:.0f} days; {100 * changes['hsi_only_share']:.0f} % is only as sharp as the HSI",
    ]
    if found["changed_marked"] is not None and found["marked_changed"] is not None:
        lines.append(
            f"  really changed (fields, missed clouds): {100 * found['changed_share']:.0f} %, of which"
            f" {100 * found['changed_marked']:.0f} % are marked; {100 * found['marked_changed']:.0f} % of the marked"
            " ground did change"
        )
    return [*lines, f"map     {facts['confidence']}, and in the report"]


def _number(value: float | None, column: str) -> str:
    digits = 4 if column == "RMSE" else 2
    return f"{'-':>9}" if value is None else f"{value:9.{digits}f}"
