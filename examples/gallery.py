"""Make the pictures of the documentation from what `hsfuse demo DEMO_FOLDER` left.

Usage: python gallery.py DEMO_FOLDER PICTURES_FOLDER

The explorer's picture needs Chromium; without it, that picture is left as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = {
    "quicklook_true_colour.png": "gallery_true_colour.png",
    "quicklook_false_colour.png": "gallery_false_colour.png",
    "quicklook_swir.png": "gallery_swir.png",
    "spectra.png": "gallery_spectra.png",
    "consistency.png": "gallery_consistency.png",
    "bands.png": "gallery_bands.png",
    "coregistration_vectors.png": "gallery_coregistration.png",
}
WIDEST_PX = 1000
PIXEL = "240,250,prisma"


def shrink(source: Path, target: Path) -> None:
    """Copy a picture, no wider than the page, in few colours where it is a drawing."""
    with Image.open(source) as picture:
        picture.thumbnail((WIDEST_PX, WIDEST_PX * 2), Image.Resampling.LANCZOS)
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture.convert("RGBA"), mask=picture.convert("RGBA").getchannel("A"))
        flat.quantize(128).save(target, optimize=True)


def photograph_explorer(cube: Path, target: Path) -> None:
    """Open the explorer in a headless browser and keep what it shows."""
    browser = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
    if browser is None:
        print("no Chromium: the explorer's picture stays as it is")
        return
    command = [sys.executable, "-m", "hsfuse", "view", str(cube), "--no-browser", "--quiet"]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as view:
        try:
            address = view.stdout.readline().strip() if view.stdout else ""
            shot = Path(folder) / "view.png"
            subprocess.run(
                [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
                 "--window-size=1100,1250", "--virtual-time-budget=15000", f"--screenshot={shot}",
                 f"{address}#{PIXEL}"],
                check=True, capture_output=True,
            )  # fmt: skip
            shrink(shot, target)
        finally:
            view.terminate()


def main(demo: Path, pictures: Path) -> None:
    """Make all pictures."""
    for name, target in PICTURES.items():
        shrink(demo / "fused.qa" / name, pictures / target)
    photograph_explorer(demo / "fused.tif", pictures / "view.png")
    print("pictures in", pictures)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
