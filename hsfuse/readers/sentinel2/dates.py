"""Which dates of an archive a composed image is made of: near in time, clear over the footprint, under a like sun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Grid
from hsfuse.log import get_logger
from hsfuse.masks import BoolArray
from hsfuse.readers.entry import OpenOptions
from hsfuse.readers.sentinel2.composite import DateImage, Sentinel2Composite
from hsfuse.readers.sentinel2.layout import mosaic_grid
from hsfuse.readers.sentinel2.mosaic import Sentinel2Mosaic
from hsfuse.readers.sentinel2.points import CLEAR, HIDDEN, NO_DATA, RIM, FootprintPoints, States
from hsfuse.readers.sentinel2.product import BandSet, Sentinel2Product
from hsfuse.readers.source_dates import USUAL_DAYS, DateWish, SourceDate

_log = get_logger(__name__)

ONE_DATE = timedelta(minutes=15)
"""Tiles of one overflight, and of spacecraft that fly in tandem, are no further apart."""
_DAYS_PER_CLOUD_PERCENT = 0.3
"""One percent of the footprint under cloud counts as much as so many days between the images."""
_DAYS_PER_MISSING_PERCENT = 1.0
_DAYS_PER_SUN_DEGREE = 0.5
_MORE_DAYS = 30.0
"""Dates that fill gaps may be so much further away than the one that fits best."""
_ADDS_SHARE = 0.001
"""A date is used when it shows at least this much more of the footprint clear."""
_PARTNER_DAYS = 30.0
"""A partner costs at most so much more than the date that fits best, in days,"""
_PARTNER_SHARE = 0.2
"""and shows at least so much of the footprint clear that this date shows clear too."""
_ADDS_DATA = 0.0005
"""A tile of a date is used when it images so much more of the footprint."""
_COMPLETE = 0.999


@dataclass(frozen=True)
class TileSource:
    """A tile that can be opened, and what its metadata say of it."""

    path: Path
    product: str
    granule: str
    tile_id: str
    grid: Grid
    level: str
    baseline: str
    spacecraft: str
    start: datetime | None
    sun_zenith_deg: float | None
    sun_azimuth_deg: float | None

    def open(self, options: OpenOptions, bands: BandSet | None = None, notes: Sequence[str] = ()) -> Sentinel2Product:
        """Open the tile with the bands that are wanted."""
        return Sentinel2Product(
            self.path, bands=bands or options.bands, granule=self.granule, verify=options.verify,
            threads=options.threads, notes=notes,
        )  # fmt: skip


@dataclass(frozen=True)
class _Looked:
    """A date and what it shows of the footprint: its tiles, those that image most first, and the points' states."""

    tiles: tuple[TileSource, ...]
    states: States
    facts: SourceDate
    cost: float

    @property
    def clear(self) -> BoolArray:
        """Points away from clouds."""
        return np.asarray(self.states == CLEAR, dtype=np.bool_)

    @property
    def rim(self) -> BoolArray:
        """Points on the rim of clouds, which are used where no date is any better."""
        return np.asarray(self.states == RIM, dtype=np.bool_)


def wanted_dates(sources: Sequence[TileSource], wish: DateWish) -> list[TileSource]:
    """Leave out tiles of days that are not wanted, or too far away.

    Raises
    ------
    OverlapError
        None is left.
    """
    kept = [s for s in sources if not wish.only or (s.start is not None and s.start.date() in wish.only)]
    if not kept:
        days = sorted({f"{s.start:%Y-%m-%d}" for s in sources if s.start is not None})
        asked = ", ".join(map(str, wish.only))
        shown = ", ".join(days[:6]) + (f" and {len(days) - 6} more" if len(days) > 6 else "")
        raise OverlapError(
            f"No Sentinel-2 product under the hyperspectral image is of {asked}.",
            hint=f"There are products of {shown}." if days else "The products do not say when they were taken.",
        )
    limit = wish.max_days
    if limit is None or wish.start is None:
        return kept
    near = [s for s in kept if (days_apart := wish.days(s.start)) is None or abs(days_apart) <= limit]
    if not near:
        nearest = min(abs(wish.days(s.start) or 0.0) for s in kept)
        raise OverlapError(
            f"No Sentinel-2 product under the hyperspectral image is within {limit:g} days (--max-days): the nearest "
            f"is {nearest:.0f} days apart.",
            hint="Raise --max-days, or get an image of a nearer date.",
        )
    return near


def split_dates(sources: Sequence[TileSource]) -> list[list[TileSource]]:
    """Sort tiles by overflight, the earliest first; tiles without a time stand for themselves."""
    dates: list[list[TileSource]] = []
    begun: datetime | None = None
    timed = [(source.start, source) for source in sources if source.start is not None]
    for start, source in sorted(timed, key=lambda pair: (pair[0], pair[1].product, pair[1].granule)):
        if begun is not None and start - begun <= ONE_DATE:
            dates[-1].append(source)
        else:
            begun = start
            dates.append([source])
    untimed: dict[Path, list[TileSource]] = {}
    for source in sources:
        if source.start is None:
            untimed.setdefault(source.path, []).append(source)
    return dates + list(untimed.values())


def open_dates(
    dates: Sequence[Sequence[TileSource]], options: OpenOptions, notes: Sequence[str] = (), *, named: bool = False
) -> Sentinel2Composite:
    """Choose among dates under ``options.target`` and open those that are used as one image.

    Parameters
    ----------
    dates
        Tiles of each date.
    options
        How they are to be opened.
    notes
        What else there is to say about the products.
    named
        The user named each product: none is too far away to fill gaps.

    Raises
    ------
    OverlapError
        No date has data under the target.
    """
    if options.target is None:
        raise OverlapError("Dates can only be chosen for a hyperspectral image.")
    points = FootprintPoints(options.target, options.dates)
    looked = _look_at(dates, points, options)
    used = _choose(looked, options.dates, named=named)
    taken = np.zeros(len(points), np.bool_)
    shown = np.zeros(len(used))
    for parts in ([date.clear for date in used], [date.rim for date in used]):
        for number, part in enumerate(parts):
            shown[number] += float((part & ~taken).mean())
            taken |= part
    partners = [
        date for date in _partners(_ranked(looked), options.dates)
        if any(date is other for other in used) or _opens(date, options)
    ]  # fmt: skip
    named_so = {id(date) for date in partners}
    told = [replace(date, facts=replace(date.facts, partner=id(date) in named_so)) for date in used]
    others = [
        replace(date.facts, partner=id(date) in named_so) for date in looked if all(date is not o for o in used)
    ]  # fmt: skip
    chosen = [replace(d, facts=replace(d.facts, used=float(s))) for d, s in zip(told, shown, strict=True)]
    numbers = [next((n for n, other in enumerate(used) if other is date), None) for date in partners]
    return _open(
        chosen, sorted(others, key=_nearness), list(zip(partners, numbers, strict=True)), options, notes
    )  # fmt: skip


def _opens(date: _Looked, options: OpenOptions) -> bool:
    """Whether the tiles of a date that is not needed can be opened; a damaged one is no partner, and that is said."""
    try:
        for tile in date.tiles:
            tile.open(options).close()
    except InputError as error:
        _log.warning("%s is not combined with the other dates: %s", date.facts.products[0], error)
        return False
    return True


def _nearness(facts: SourceDate) -> tuple[float, str]:
    return (math.inf if facts.days_apart is None else abs(facts.days_apart), facts.products[0])


def _look_at(dates: Sequence[Sequence[TileSource]], points: FootprintPoints, options: OpenOptions) -> list[_Looked]:
    """Look at the scene classes of dates, the most promising first, until no further one could matter."""
    wish = options.dates
    waiting = sorted(((_least_cost(tiles[0], wish), i) for i, tiles in enumerate(dates)))
    looked: list[_Looked] = []
    clear = np.zeros(len(points), np.bool_)
    for cost, number in waiting:
        best = min((date.cost for date in looked), default=math.inf)
        complete = cost >= best and clear.mean() >= _COMPLETE
        if not wish.thorough and complete and _partners_known(looked, cost, wish):
            break
        date = _look(dates[number], points, options)
        if date is None:
            continue
        _log.debug("%s: %.1f %% of the footprint clear", date.facts.label, 100 * date.facts.clear)
        looked.append(date)
        clear |= date.clear
    if not looked:
        raise OverlapError(
            "None of the Sentinel-2 tiles has data under the hyperspectral image.",
            hint="Choose the tiles by the footprint; `hsfuse info FILE` prints the extent of each product.",
        )
    return looked


def _partners_known(looked: Sequence[_Looked], next_cost: float, wish: DateWish) -> bool:
    """Whether dates that cost as much as the next one, or more, would be no partners."""
    ranked = _ranked(looked)
    least = ranked[0].cost + _PARTNER_DAYS
    found = _partners(ranked, wish)
    return next_cost > least or (len(found) >= wish.partners and all(date.cost <= next_cost for date in found))


def _ranked(looked: Sequence[_Looked]) -> list[_Looked]:
    return sorted(looked, key=lambda date: (date.cost, date.facts.products[0]))


def _partners(ranked: Sequence[_Looked], wish: DateWish) -> list[_Looked]:
    """Further dates that show what the first one shows, the better ones first."""
    first = ranked[0]
    return [
        date for date in ranked[1:]
        if date.cost <= first.cost + _PARTNER_DAYS and (date.clear & first.clear).mean() >= _PARTNER_SHARE
    ][: wish.partners]  # fmt: skip


def _look(tiles: Sequence[TileSource], points: FootprintPoints, options: OpenOptions) -> _Looked | None:
    """Look at one date; None when it has no data in the footprint."""
    # Newer processing first, so that the same tile processed twice is taken from the later one.
    ordered = sorted(tiles, key=lambda tile: (tile.baseline, tile.product), reverse=True)
    seen: list[tuple[TileSource, States]] = []
    for tile in ordered:
        with tile.open(options, bands="first") as product:
            seen.append((tile, points.states(product)))
    seen.sort(key=lambda pair: -int(np.count_nonzero(pair[1])))
    states = np.zeros(len(points), np.uint8)
    kept: list[TileSource] = []
    for tile, found in seen:
        adds = (states == NO_DATA) & (found != NO_DATA)
        if adds.mean() >= _ADDS_DATA or (not kept and adds.any()):
            kept.append(tile)
            states[adds] = found[adds]
    if not kept:
        return None
    first, wish = kept[0], options.dates
    clear, hidden = float((states >= RIM).mean()), float((states == HIDDEN).mean())
    facts = SourceDate(
        first.start, " + ".join(sorted({tile.spacecraft for tile in kept})),
        tuple(dict.fromkeys(tile.product for tile in kept)), wish.days(first.start), first.sun_zenith_deg,
        covered=clear + hidden, cloudy=hidden, clear=clear, used=0.0,
    )  # fmt: skip
    cost = _least_cost(first, wish) + 100.0 * (
        _DAYS_PER_CLOUD_PERCENT * hidden + _DAYS_PER_MISSING_PERCENT * (1.0 - clear - hidden)
    )
    return _Looked(tuple(kept), states, facts, cost)


def _least_cost(tile: TileSource, wish: DateWish) -> float:
    """How far a date is from an ideal one at least, in days: by time and sun alone."""
    return abs(wish.days(tile.start) or 0.0) + _DAYS_PER_SUN_DEGREE * _sun_difference_deg(tile, wish)


def _sun_difference_deg(tile: TileSource, wish: DateWish) -> float:
    """Angle between the directions to the sun; 0 where one is not known."""
    if wish.sun_zenith_deg is None or tile.sun_zenith_deg is None:
        return 0.0
    first, second = math.radians(wish.sun_zenith_deg), math.radians(tile.sun_zenith_deg)
    if wish.sun_azimuth_deg is None or tile.sun_azimuth_deg is None:
        return math.degrees(abs(first - second))
    turn = math.radians(wish.sun_azimuth_deg - tile.sun_azimuth_deg)
    cosine = math.cos(first) * math.cos(second) + math.sin(first) * math.sin(second) * math.cos(turn)
    return math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))


def _choose(looked: Sequence[_Looked], wish: DateWish, *, named: bool) -> list[_Looked]:
    """Dates that are used, the one that fits best first, then those that fill what is open, the better ones first."""
    ranked = _ranked(looked)
    first = ranked[0]
    used, clear = [first], first.clear
    limit = math.inf
    if wish.max_days is None and not named and first.facts.days_apart is not None:
        limit = max(USUAL_DAYS, abs(first.facts.days_apart) + _MORE_DAYS)
    for date in ranked[1:]:
        days = date.facts.days_apart
        if (days is None or abs(days) <= limit) and (date.clear & ~clear).mean() >= _ADDS_SHARE:
            used.append(date)
            clear = clear | date.clear
    return used


def _open(
    used: Sequence[_Looked], others: Sequence[SourceDate], partners: Sequence[tuple[_Looked, int | None]],
    options: OpenOptions, notes: Sequence[str],
) -> Sentinel2Composite:  # fmt: skip
    """Open the tiles of all used dates on the pixels of the first date's first tile, and those of the partners.

    Partners come with their number among the used dates, or None.
    """
    target = options.target
    with ExitStack() as opened:
        products: list[list[Sentinel2Product]] = []
        for date in used:
            tiles = [tile.open(options, notes=notes) for tile in date.tiles]
            for product in tiles:
                opened.callback(product.close)
            products.append(tiles)
        every = [product for tiles in products for product in tiles]
        base = products[0][0]
        crs = base.grid.crs if target is None else target.crs
        grid = mosaic_grid(every, base, None, None if target is None else target.bounds, crs)
        images = [
            DateImage(Sentinel2Mosaic.on_grid(tiles, grid), date.facts)
            for date, tiles in zip(used, products, strict=True)
        ]
        further: list[tuple[Sentinel2Mosaic, int | None]] = []
        for date, number in partners:
            if number is not None:
                further.append((images[number].image, number))
                continue
            tiles = [tile.open(options, notes=notes) for tile in date.tiles]
            for product in tiles:
                opened.callback(product.close)
            further.append((Sentinel2Mosaic.on_grid(tiles, grid), None))
        composite = Sentinel2Composite(images, others, partners=further)
        opened.pop_all()
    return composite
