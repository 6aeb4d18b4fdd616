"""One look for all figures: restrained, readable in print, safe for colour-blind readers.

Figures are made through matplotlib's objects, never through pyplot, so nothing global is left behind and threads
do not disturb each other's figures. matplotlib is imported on first use.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2933"
MUTED = "#7b8794"
FAINT = "#e4e7eb"
# Okabe and Ito (2008): eight colours that stay apart for all common kinds of colour blindness.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "#4B5563", "#8C6D1F")

KIND_COLOURS = {"vegetation": GREEN, "soil": "#A65E00", "water": BLUE, "built-up": PURPLE}
LINE_STYLES = ("-", "--", "-.", ":")

DPI = 130
PNG_LEVEL = 4
"""Of compression: higher ones take half as long again, the highest four times as long, and save a hundredth."""
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.4,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.unicode_minus": True,
    # Product and method names are printed as they are: a dollar sign starts no formula.
    "text.parse_math": False,
}


@contextmanager
def themed() -> Iterator[None]:
    """Apply the look to every artist made inside, over a clean slate (a user's matplotlibrc does not interfere)."""
    import matplotlib as mpl

    settings: Any = mpl.rcParams
    with mpl.rc_context():
        settings.update({k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")})
        settings.update(_RC)
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """Make a figure that arranges itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")


def to_png(figure: Figure) -> bytes:
    """Render a figure: once, where ``savefig`` would arrange and draw it twice for the same pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    with themed(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to complain on every run.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        imsave(
            buffer, np.asarray(canvas.buffer_rgba()), format="png", dpi=DPI, metadata={"Software": "hsfuse"},
            pil_kwargs={"compress_level": PNG_LEVEL},
        )  # fmt: skip
    return buffer.getvalue()


def to_vector(figure: Figure, name: str) -> bytes:
    """Draw a figure as ``svg`` or ``pdf``; equal figures give equal files."""
    buffer = io.BytesIO()
    with themed(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        import matplotlib as mpl

        settings: Any = mpl.rcParams
        settings.update({"svg.hashsalt": "hsfuse"})
        metadata = {"Date" if name == "svg" else "CreationDate": None, "Creator": "hsfuse"}
        figure.savefig(buffer, format=name, metadata=metadata)
    return buffer.getvalue()


def broken_line(
    axes: Axes,
    centre_nm: NDArray[np.float64],
    values: NDArray[np.float64],
    runs: Iterable[slice],
    *,
    label: str | None = None,
    **style: Any,
) -> None:
    """Draw a curve that stops at the end of each run of bands; a run of one band is a dot."""
    for run in runs:
        single = run.stop - run.start == 1
        extra = {"marker": "o", "markersize": 2.5} if single and "marker" not in style else {}
        axes.plot(centre_nm[run], values[run], label=label, **{**extra, **style})
        label = None


def add_legend(axes: Axes, **options: Any) -> None:
    """Add a legend where there is something to explain (matplotlib warns about empty ones)."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, **options)


def shade_gaps(axes: Axes, centre_nm: NDArray[np.float64], runs: list[slice]) -> None:
    """Shade the wavelengths between runs: no band was kept there."""
    for before, after in pairwise(runs):
        axes.axvspan(centre_nm[before.stop - 1], centre_nm[after.start], color=FAINT, alpha=0.6, linewidth=0, zorder=0)


def nice_length(value: float) -> float:
    """Round down to 1, 2 or 5 times a power of ten (for the arrow in a legend)."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step for step in (1.0, 2.0, 5.0) if step * power <= value * (1 + 1e-9)) * power)


def number(value: float, decimals: int = 1) -> str:
    """Print a number with a true minus sign; a dash when there is none."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.{decimals}f}".replace("-", "−")
