"""Random textures: fractal fields, irregular subdivisions of a line, hashes, Voronoi districts.

Nothing here repeats: a periodic pattern would let correlation match the wrong place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FloatArray = NDArray[np.float32]
HashArray = NDArray[np.uint32]


def fractal(
    shape: tuple[int, int], rng: np.random.Generator, *, slope: float, outer_px: float, inner_px: float = 0.0
) -> FloatArray:
    """Gaussian random field with a power-law spectrum.

    Parameters
    ----------
    shape
        (rows, cols).
    rng
        Source of randomness.
    slope
        Exponent of the power spectrum: 1.5 is grainy, 2.5 cloud-like, 4 smooth.
    outer_px
        Structures larger than this do not grow any further in strength.
    inner_px
        Structures smaller than this are damped (0: none).

    Returns
    -------
    numpy.ndarray
        Shape (row, col), mean about 0, standard deviation 1.
    """
    # The field is periodic in the size of the transform: the spare rim keeps opposite edges independent.
    rim = int(min(2.0 * outer_px, 0.25 * max(shape))) + 8
    rows, cols = (fft.next_fast_len(side + rim, real=True) for side in shape)
    fy = fft.fftfreq(rows).astype(np.float32)[:, None]
    fx = fft.rfftfreq(cols).astype(np.float32)[None, :]
    square = fy * fy + fx * fx
    amplitude = (square + np.float32(1.0 / outer_px) ** 2) ** np.float32(-slope / 4.0)
    if inner_px > 0.0:
        amplitude *= np.exp(-square * np.float32((inner_px * 0.75) ** 2))
    amplitude[0, 0] = 0.0
    weight = np.full(amplitude.shape[1], 2.0)
    weight[0] = 1.0
    power = float(np.einsum("ij,ij,j->", amplitude, amplitude, weight, dtype=np.float64))
    spectrum = np.empty(amplitude.shape, np.complex64)
    spectrum.real = rng.standard_normal(amplitude.shape, dtype=np.float32)
    spectrum.imag = rng.standard_normal(amplitude.shape, dtype=np.float32)
    spectrum *= amplitude
    field = fft.irfft2(spectrum, s=(rows, cols), overwrite_x=True)
    field = field[: shape[0], : shape[1]]
    return np.ascontiguousarray(field * np.float32(rows * cols / np.sqrt(2.0 * power)), dtype=np.float32)


def mix_hash(value: HashArray, salt: int) -> HashArray:
    """Scramble 32-bit numbers; different salts give independent results (the finaliser of MurmurHash3)."""
    h = value ^ np.uint32((salt * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    mixed: HashArray = h ^ (h >> np.uint32(16))
    return mixed


def unit(value: HashArray, salt: int) -> FloatArray:
    """Turn hashes into numbers from 0 to 1."""
    return mix_hash(value, salt).astype(np.float32) * np.float32(2.0**-32)


@dataclass(frozen=True)
class Subdivision:
    """A long line cut into pieces of irregular length (mean 1), tabulated for fast lookup.

    Attributes
    ----------
    piece
        Number of the piece at each table position.
    edge
        Distance to the nearest cut, in mean lengths.
    per_unit
        Table positions per mean length.
    """

    piece: HashArray
    edge: FloatArray
    per_unit: int

    @classmethod
    def random(cls, rng: np.random.Generator, *, spread: float, pieces: int = 2048, per_unit: int = 128) -> Subdivision:
        """Draw piece lengths from a log-normal distribution with the given relative ``spread``."""
        lengths = np.clip(np.exp(rng.normal(0.0, spread, pieces)), 0.35, 3.0)
        cuts = np.concatenate(([0.0], np.cumsum(lengths / lengths.mean())))
        position = (np.arange(int(cuts[-1] * per_unit)) + 0.5) / per_unit
        piece = np.searchsorted(cuts, position, side="right") - 1
        edge = np.minimum(position - cuts[piece], cuts[piece + 1] - position)
        return cls(piece.astype(np.uint32), edge.astype(np.float32), per_unit)

    def at(self, position: FloatArray, offset: HashArray) -> tuple[HashArray, FloatArray]:
        """Piece and distance to its edge at ``position`` (mean lengths) along a line that ``offset`` chooses."""
        # Lines with different offsets start at far-apart places of the same table.
        where = (position * np.float32(self.per_unit)).astype(np.int64) + offset.astype(np.int64)
        where %= self.piece.size
        return self.piece[where], self.edge[where]


@dataclass(frozen=True)
class Districts:
    """Voronoi cells of a jittered lattice: neighbourhoods that share field size, direction and habits.

    Attributes
    ----------
    spacing
        Mean distance of the cell centres (any unit; positions have the same one).
    salt
        Chooses the pattern.
    """

    spacing: float
    salt: int

    def at(self, x: FloatArray, y: FloatArray) -> tuple[HashArray, FloatArray]:
        """Hash of the cell, and distance to its border, at positions of any (equal) shape."""
        u, v = x / np.float32(self.spacing), y / np.float32(self.spacing)
        iu, iv = np.floor(u), np.floor(v)
        centres = []
        best = np.full(u.shape, np.inf, np.float32)
        cell = np.zeros(u.shape, np.uint32)
        own_x, own_y = np.zeros(u.shape, np.float32), np.zeros(u.shape, np.float32)
        for dv in (-1, 0, 1):
            for du in (-1, 0, 1):
                ju, jv = iu + np.float32(du), iv + np.float32(dv)
                key = _lattice_key(ju, jv, self.salt)
                ox = ju + 0.15 + 0.7 * unit(key, 1) - u
                oy = jv + 0.15 + 0.7 * unit(key, 2) - v
                distance = ox * ox + oy * oy
                centres.append((ox, oy, distance))
                nearer = distance < best
                best = np.where(nearer, distance, best)
                cell = np.where(nearer, key, cell)
                own_x, own_y = np.where(nearer, ox, own_x), np.where(nearer, oy, own_y)
        border = np.full(u.shape, np.inf, np.float32)
        for ox, oy, distance in centres:
            # Distance to the line half-way to this centre; infinite for the cell's own.
            apart = np.hypot(ox - own_x, oy - own_y)
            side = (distance - best) / (2.0 * np.maximum(apart, 1e-6))
            border = np.where((apart > 1e-6) & (side < border), side, border)
        return mix_hash(cell, 7), (border * np.float32(self.spacing)).astype(np.float32)


def _lattice_key(u: FloatArray, v: FloatArray, salt: int) -> HashArray:
    packed = (u.astype(np.int64) * 73_856_093) ^ (v.astype(np.int64) * 19_349_663)
    return mix_hash((packed & 0xFFFFFFFF).astype(np.uint32), salt)
