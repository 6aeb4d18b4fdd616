"""HTML pages that need nothing but themselves: templates, embedded pictures, atomic writing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsfuse.errors import OutputError
from hsfuse.outputs import made_by_hsfuse, marked_png, replace_file
from hsfuse.qa import style

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure


OWN_PICTURE = (
    r"(quicklook_\w+|detail_\d+_(before|after)|alignment_(reference|before|after)|coregistration_(vectors|errors)"
    r"|consistency|seams|spectra|bands|changes|dates|band_psnr|error_maps|picture_\d+)\.(png|svg|pdf)"
)
"""Names of pictures that hsfuse writes, as a regular expression."""


@dataclass(frozen=True)
class FigureFile:
    """A picture of a report.

    Attributes
    ----------
    key
        File name without ``.png``, unique in the report.
    section
        Where it belongs.
    title, caption
        Heading and explanation (plain text).
    png
        Content.
    alt
        What is to be seen, for readers who do not see it.
    group
        Pictures of one group stand side by side.
    how
        How to read it, for those who see such a figure for the first time.
    scale
        For maps: share of the picture's width that the scale bar takes, and its length in words.
    drawing
        The figure that the picture was made of, for other formats; None for photographs.
    """

    key: str
    section: str
    title: str
    caption: str
    png: bytes
    alt: str = ""
    group: str = ""
    how: str = ""
    scale: tuple[float, str] | None = None
    drawing: Figure | None = None


def embed(figures: Sequence[FigureFile]) -> dict[str, list[dict[str, Any]]]:
    """Sort figures by section, each with its content as a data URI."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for figure in figures:
        uri = "data:image/png;base64," + base64.b64encode(figure.png).decode("ascii")
        entry = {name: getattr(figure, name) for name in ("key", "title", "caption", "group", "how", "scale")}
        sections.setdefault(figure.section, []).append(entry | {"uri": uri, "alt": figure.alt or figure.title})
    return sections


@cache
def prepared_page(template: str) -> tuple[Template, Mapping[str, Any]]:
    """Compile a template of this package, which takes a tenth of a second; return it, and what every page holds."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("hsfuse.qa", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = loader.get_source(environment, "_script.js")[0]
    style = loader.get_source(environment, "_style.css")[0]
    # The page may run this one script and load nothing: a name that slipped through escaping could do no harm.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    environment.filters["signed"] = lambda value, decimals=4: f"{value:+.{decimals}f}".replace("-", "−")
    shared = {"policy": policy, "script": Markup(script), "style": Markup(style)}
    return environment.get_template(template), shared


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """Render a template of this package; every value is escaped."""
    page, shared = prepared_page(template)
    return page.render(**context, **shared)


def picture_folder(path: Path) -> Path:
    """Return the folder for a report's pictures: ``out.report.html`` -> ``out.qa``."""
    name = path.name
    for suffix in (".html", ".report"):
        name = name.removesuffix(suffix)
    return path.with_name(f"{name}.qa")


def write_files(path: Path, page: str, figures: Sequence[FigureFile], formats: Sequence[str] = ("png",)) -> None:
    """Write the pictures into their folder and then the page, each under a temporary name first.

    PNG files are always written; ``formats`` may ask for ``svg`` and ``pdf`` of drawings as well. Pictures that an
    earlier report left in the folder go; files of others stay.

    Raises
    ------
    OutputError
        Something cannot be written.
    """
    folder = picture_folder(path)
    try:
        (folder if figures else path.parent).mkdir(parents=True, exist_ok=True)
        for figure in figures:
            replace_file(folder / f"{figure.key}.png", marked_png(figure.png))
            for name in formats:
                if name != "png" and figure.drawing is not None:
                    replace_file(folder / f"{figure.key}.{name}", style.to_vector(figure.drawing, name))
        replace_file(path, page.encode("utf-8"))
        current = {f"{figure.key}.{name}" for figure in figures for name in {"png", *formats}}
        for old in folder.iterdir() if folder.is_dir() else ():
            if re.fullmatch(OWN_PICTURE, old.name) and old.name not in current and made_by_hsfuse(old):
                old.unlink()
    except OSError as error:
        raise OutputError(
            f"The report {path} cannot be written: {error.strerror}.", hint="Check the folder's rights and the disk."
        ) from error
