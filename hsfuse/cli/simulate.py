"""``hsfuse simulate``: a scene in the true product formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.session import AsJson, NoProgress, Quiet, Session, Verbose
from hsfuse.simulate.settings import HsiSensor


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("simulate")
    def simulate(
        folder: Annotated[Path, typer.Argument(help="where to write the products")],
        rows: Annotated[int, typer.Option(help="height in HSI pixels (30 m)", min=40)] = 200,
        cols: Annotated[int, typer.Option(help="width in HSI pixels (30 m)", min=40)] = 200,
        sensor: Annotated[HsiSensor, typer.Option(help="hyperspectral product: its sensor and level")] = "prisma-l2d",
        seed: Annotated[int, typer.Option(help="another seed, another landscape", min=0)] = 0,
        clouds: Annotated[
            float, typer.Option(help="share of the Sentinel-2 image under cloud", min=0.0, max=1.0)
        ] = 0.03,
        full_tile: Annotated[bool, typer.Option("--full-tile", help="a whole 10980 x 10980 Sentinel-2 tile")] = False,
        s2_bands: Annotated[str, typer.Option(help="10m or all")] = "10m",
        swir_shift: Annotated[
            tuple[float, float], typer.Option(help="where PRISMA's SWIR looks beside its VNIR, metres east and north")
        ] = (0.0, 0.0),
        days_apart: Annotated[
            int | None, typer.Option(help="Sentinel-2 so many days later: harvest, season, sun, haze, missed clouds")
        ] = None,
        overflight: Annotated[
            int,
            typer.Option(help="Sentinel-2 on another day of its own: other noise, clouds and haze, same ground", min=0),
        ] = 0,
        relief: Annotated[
            float, typer.Option(help="relief in metres: slopes, cast shadows and parallax", min=0.0, max=4000.0)
        ] = 0.0,
        smile: Annotated[bool, typer.Option("--smile", help="strong smile: 2.5 nm at both ends of the swath")] = False,
        fine: Annotated[
            bool, typer.Option("--fine", help="a 5 m landscape: the panchromatic image shows more than Sentinel-2")
        ] = False,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
    ) -> None:
        """Simulate a hyperspectral and a Sentinel-2 product of one landscape, with the truth beside them."""
        session = Session(verbose, quiet, as_json, no_progress)
        with session.errors():
            from hsfuse.workflows.simulate import simulate_products

            facts = simulate_products(
                folder, sensor=sensor, rows=rows, cols=cols, seed=seed, clouds=clouds, full_tile=full_tile,
                s2_bands=s2_bands, vnir_swir_shift_m=swir_shift, days_apart=days_apart, overflight=overflight,
                relief_m=relief, strong_smile=smile, fine_truth=fine, progress=session.progress,
            )  # fmt: skip
            session.show(facts, lambda: "\n".join(f"{name:<11} {value}" for name, value in facts.items()))
