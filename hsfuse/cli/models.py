"""``hsfuse models``: list and describe the networks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hsfuse.cli.session import AsJson, Quiet, Session, Verbose


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("models")
    def models(
        name: Annotated[str | None, typer.Argument(help="a network of the list, or a .safetensors file")] = None,
        speed: Annotated[
            bool, typer.Option("--speed", help="also say how fast they are on this machine (takes some seconds)")
        ] = False,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        """List the networks that can fuse, or describe one of them."""
        session = Session(verbose, quiet, as_json)
        with session.errors():
            from hsfuse.workflows.models import describe_model, describe_models, with_speed

            if name is not None:
                entry = describe_model(name)
                entry = with_speed([entry])[0] if speed else entry
                session.show(entry, lambda: model_text(entry))
            else:
                entries = with_speed(describe_models()) if speed else describe_models()
                session.show({"models": entries}, lambda: list_text(entries))


def list_text(entries: list[dict[str, Any]]) -> str:
    """Networks by family, with what was released by whom; one to three lines for each."""
    lines: list[str] = []
    family = None
    for entry in entries:
        if entry["family"] != family:
            family = entry["family"]
            about = [entry["reference"], entry["licence"] and f"authors' release: {entry['licence']}"]
            lines += [*([""] if lines else []), f"{family}: {'; '.join(filter(None, about)) or 'no source given'}"]
        lines.append(f"  {entry['name']:<18} {entry['description']}")
        lines.append(" " * 21 + _weights(entry))
        if entry.get("training_scenes"):
            # Variants of a scene (halved, other bands) are named after a comma.
            sites = dict.fromkeys(str(name).split(", ")[0] for name in entry["training_scenes"])
            lines.append(" " * 21 + "trained on " + ", ".join(sites))
        if "threads" in entry:
            lines.append(" " * 21 + _speed(entry))
    return "\n".join(lines) or "There are no networks."


def model_text(entry: dict[str, Any]) -> str:
    """Describe one network."""
    lines = [f"{entry['name']}: {entry['description']}", f"  {_weights(entry)}"]
    lines += [f"  {label:<11} {entry[key]}" for key, label in (("reference", "reference"), ("licence", "released"))
              if entry[key]]  # fmt: skip
    training = entry.get("training") or {}
    if "threads" in entry:
        lines.append(f"  speed       {_speed(entry)}")
    if entry["trained"]:
        lines.append(f"  network     {entry['architecture']}")
        lines.append(f"  base        {entry['base'] or 'none'}")
        lines.append(
            f"  MSI bands   {', '.join(entry['msi_bands']) or ('not recorded' if entry['range_nm'] else 'any')}"
        )
        lines.append(f"  sha256      {entry['sha256']}")
    for key, label in (("recipe", "recipe"), ("finished", "finished"), ("device", "trained on"), ("steps", "steps"),
                       ("training_seconds", "seconds")):  # fmt: skip
        if key in training:
            lines.append(f"  {label:<11} {training[key]}")
    if training.get("scenes"):
        scenes = training["scenes"]
        lines.append(f"  scenes      {len(scenes)}: {'; '.join(scenes[:4])}{'; ...' if len(scenes) > 4 else ''}")
    if entry.get("card"):
        lines.append(f"  card        {entry['card']}")
    lines.append("  settings    " + ", ".join(f"{key}={value}" for key, value in entry["config"].items()))
    return "\n".join(lines)


def _speed(entry: dict[str, Any]) -> str:
    threads = f"{entry['threads']} thread{'' if entry['threads'] == 1 else 's'}"
    return f"about {entry['seconds_per_megapixel']:.0f} s for a megapixel of the product here, {threads}"


def _weights(entry: dict[str, Any]) -> str:
    if not entry["trained"]:
        return "no weights yet: train it with `hsfuse train-reduced`"
    if entry["range_nm"] is None:
        bands = "any bands"
    else:
        low, high = entry["range_nm"]
        bands = f"{entry['bands']} bands from {low:.0f} to {high:.0f} nm"
    ratio = f"ratio {' and '.join(map(str, entry['ratios']))}" if entry["ratios"] else "any ratio"
    text = f"{bands}, {ratio}, {entry['bytes'] / 1e6:.1f} MB"
    scores = entry.get("validation")
    return text + (f", {scores['gain_db']:+.2f} dB over its base estimate in training" if scores else "")
