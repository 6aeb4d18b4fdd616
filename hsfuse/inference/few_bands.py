"""What is said of a hyperspectral image of few bands, from which neither its noise nor changed ground can be told."""

from __future__ import annotations

FEW_BANDS = 7
"""With so few bands a method's gain is not taken for granted."""


def few_bands_note(bands: int) -> str:
    """Return a sentence that asks for care where an image of so many bands is fused; empty where there are enough."""
    if bands > FEW_BANDS:
        return ""
    counted = (
        "one band of the hyperspectral image is" if bands == 1 else f"{bands} bands of the hyperspectral image are"
    )
    return (
        f"Only {counted} fused: its noise, and whether both images show the same ground, can hardly be told from fewer "
        f"than {FEW_BANDS + 1}."
    )


def images_differ(bands: int) -> str:
    """Return why a guide is not trusted that an image of so many bands says little of; without a full stop."""
    said = "the images differ on most of the ground"
    return said if bands > FEW_BANDS else f"{said}, as far as so few bands ({bands}) can tell"
