"""Pack the simulator's endmember spectra from the earthlib library (MIT) into one small file.

    pip install earthlib
    python benchmarks/pack_endmembers.py path/to/earthlib/data/spectra.sli hsfuse/simulate/data/endmembers.npz

The spectra are named one by one: farthest-point sampling inside each class of the library chose them, a look at
the curves removed the implausible ones. Water is not in the library and comes from a small optical model.
"""

from __future__ import annotations

import argparse
import gzip
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

GRID_NM = np.arange(370.0, 2541.0, 10.0)
LAST_TRUSTED_NM = 2430.0  # the field spectra scatter in their last few bands

CHOICE: dict[str, tuple[str, ...]] = {
    "crop": (
        "v-LAI-4.6-LMA-0.011-CHL-47.0-N-2.2", "v-LAI-2.4-LMA-0.011-CHL-38.8-N-2.1",
        "v-LAI-3.8-LMA-0.010-CHL-44.4-N-1.8", "v-LAI-3.1-LMA-0.011-CHL-51.4-N-1.9",
        "v-LAI-5.3-LMA-0.005-CHL-26.1-N-2.4", "v-LAI-5.6-LMA-0.009-CHL-59.7-N-2.2",
        "v-LAI-4.9-LMA-0.008-CHL-26.1-N-1.9", "v-LAI-5.9-LMA-0.009-CHL-33.0-N-2.2",
    ),
    "grass": (
        "v-LAI-2.4-LMA-0.008-CHL-26.8-N-2.3", "v-LAI-1.4-LMA-0.005-CHL-38.4-N-2.4",
        "v-LAI-3.0-LMA-0.013-CHL-21.4-N-1.8", "v-LAI-2.0-LMA-0.007-CHL-12.4-N-2.3",
        "v-LAI-3.4-LMA-0.008-CHL-31.4-N-1.5",
    ),
    "broadleaf": (
        "v-LAI-6.6-LMA-0.011-CHL-45.1-N-2.3", "v-LAI-5.7-LMA-0.010-CHL-38.1-N-1.9",
        "v-LAI-5.2-LMA-0.011-CHL-56.8-N-1.4", "v-LAI-5.3-LMA-0.014-CHL-53.8-N-1.5",
    ),
    "conifer": (
        "v-LAI-3.4-LMA-0.019-CHL-37.0-N-1.5", "v-LAI-7.7-LMA-0.023-CHL-47.9-N-1.8",
        "v-LAI-4.4-LMA-0.019-CHL-56.7-N-1.4",
    ),
    "dry": (
        "SJER_Plot116_NPV_T009", "SJER_Plot116_NPV_T011", "deadmanz", "deadcott", "goldgras", "deadgras", "deadlitt",
    ),
    "soil": (
        "FS21_FS290", "FS21_FS1444", "FS15R_FS4254", "FS15R_FS4247", "FS15R_FS4778", "FS15R_FS5806", "FS21_FS253",
        "FS21_FS2053", "FS15R_FS4543", "lcxnxx.003-",
    ),
    "sand": ("lbxsxx.028-", "spcsmg.003-"),
    "gravel": ("fggemg.006-",),
    "asphalt": ("frrkof.002-", "frrkof.008-", "rpaeyg.004-", "ppaemp.006-"),
    "concrete": ("rbcsyg.002-", "rpcsye.004-", "ppcsmm.006-", "spmrye.005-"),
    "tile": ("fttrme.006-", "fttrmm.004-"),
    "roof": (
        "fscmmg.017-", "fscnye.002-", "fscgye.020-", "fscnmm.005-", "fsfnye.009-", "fswnog.007-",
    ),
    "metal": ("fhzgmg.002-", "foznmg.001-", "fhznmg.001-", "traymg.004-", "spcsye.008-"),
}  # fmt: skip

# Absorption of pure water, 1/m, rounded from the published tables (Pope and Fry 1997; Kou 1993).
WATER_NM = (370, 400, 450, 500, 550, 600, 650, 700, 730, 750, 800, 830, 870, 900, 950, 1000, 1070, 1150, 1200, 2540)
WATER_ABSORPTION = (
    0.011, 0.0066, 0.0092, 0.0204, 0.0565, 0.222, 0.340, 0.624, 1.9, 2.6, 2.1, 3.0, 5.4, 6.7, 38.0, 36.0, 15.0, 110.0,
    105.0, 2000.0,
)  # fmt: skip
# name: back-scatter at 550 nm (1/m), its spectral exponent, dissolved matter at 440 nm (1/m), chlorophyll (mg/m3)
WATERS = {"clear": (0.006, 1.0, 0.15, 1.0), "turbid": (0.35, 0.4, 0.9, 6.0), "green": (0.07, 0.5, 0.5, 35.0)}


def water(scatter: float, exponent: float, dissolved: float, chlorophyll: float) -> NDArray[np.float64]:
    """Reflectance of deep water, 0.16 b/(a + b) as seen from above the surface, plus a little surface light."""
    absorption = np.exp(np.interp(GRID_NM, WATER_NM, np.log(WATER_ABSORPTION)))
    absorption += dissolved * np.exp(-0.015 * (GRID_NM - 440.0))
    pigment = np.exp(-(((GRID_NM - 440.0) / 45.0) ** 2)) + 0.55 * np.exp(-(((GRID_NM - 675.0) / 14.0) ** 2))
    absorption += 0.025 * chlorophyll * pigment
    back = scatter * (550.0 / GRID_NM) ** exponent
    return np.asarray(0.16 * back / (absorption + back) + 0.004)


def extend(wavelength_nm: NDArray[np.float64], spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring one spectrum to the grid: monotone cubic across gaps, levelling off beyond both ends.

    Beyond an end the spectrum keeps half the slope of its last 60 nm, and the slope decays over 80 nm, so that
    nothing runs away; 2430-2540 nm and 370-400 nm are therefore an extrapolation.
    """
    inside = wavelength_nm <= LAST_TRUSTED_NM
    known, values = wavelength_nm[inside], spectrum[inside]
    out = np.asarray(PchipInterpolator(known, values)(np.clip(GRID_NM, known[0], known[-1])))
    above, below = GRID_NM > known[-1], GRID_NM < known[0]  # noqa: SIM300 - the grid is what is asked about
    ends = ((above, known[-1], known >= known[-1] - 60.0), (below, known[0], known <= known[0] + 30.0))
    for past, edge, near in ends:
        slope = 0.5 * np.polyfit(known[near], values[near], 1)[0]
        distance = GRID_NM[past] - edge
        reach = 80.0 * np.sign(distance) * (1.0 - np.exp(-np.abs(distance) / 80.0))
        out[past] += slope * reach
    return np.maximum(out, 0.003)


def main() -> None:
    """Read the library, write the packed file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path, help="spectra.sli or spectra.sli.gz, its .hdr beside it")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    stem = arguments.library.name.removesuffix(".gz")
    header = (arguments.library.parent / f"{stem}.hdr").read_text(encoding="utf-8")
    raw = arguments.library.read_bytes()
    data = np.frombuffer(gzip.decompress(raw) if arguments.library.suffix == ".gz" else raw, "<f4")

    def listed(key: str) -> list[str]:
        found = re.search(rf"\n{key} = \{{([^}}]*)\}}", header)
        if found is None:
            raise SystemExit(f"{stem}.hdr has no '{key}'")
        return [item.strip() for item in found.group(1).split(",")]

    names = listed("spectra names")
    wavelength_nm = 1000.0 * np.array([float(item) for item in listed("wavelength")])
    spectra = data.reshape(len(names), wavelength_nm.size).astype(np.float64)
    rows = [(group, name, extend(wavelength_nm, spectra[names.index(name)]))
            for group, members in CHOICE.items() for name in members]  # fmt: skip
    rows += [("water", f"model-{kind}", water(*parameters)) for kind, parameters in WATERS.items()]
    np.savez_compressed(
        arguments.output,
        wavelength_nm=GRID_NM.astype(np.float32),
        reflectance=np.stack([row[2] for row in rows]).astype(np.float32),
        group=np.array([row[0] for row in rows]),
        name=np.array([row[1] for row in rows]),
    )
    print(f"{len(rows)} spectra, {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
