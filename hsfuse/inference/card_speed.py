"""How fast a graphics card is, measured in a second once and kept: what predictions of time on it rest on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hsfuse.fusion.base import ModelSpec
from hsfuse.inference.budget import Estimate
from hsfuse.inference.speed import MachineSpeed, StageSeconds, predict_stages, seconds_of_host
from hsfuse.log import get_logger
from hsfuse.native.build import cache_folder

_log = get_logger(__name__)

SCHEMA = 1
_SECONDS = 1.0
"""Of measuring, all parts together."""
_SIDE = {"cuda": 4096, "cpu": 256}
_COPY_VALUES = {"cuda": 32 << 20, "cpu": 1 << 20}
_LAUNCHES_AT_ONCE = 100

# Shares as in benchmarks/roofline.py; not yet calibrated on a card.
_EFFICIENCY = 0.5
"""Of the product's and the copy's rates, that a network's operations reach."""
_TOUCHED = {"network": 45.0, "classical": 12.0}
"""Bytes moved per byte of working memory: 35 to 67 for the networks counted there."""
_LAUNCHES = {"network": 2000, "classical": 300}
"""Operations of one call."""


@dataclass(frozen=True)
class CardSpeed:
    """What a card does.

    Attributes
    ----------
    flops, half_flops
        Matrix products in float32 and in half precision, operations per second.
    stream
        Copying inside the card's memory, bytes read and written per second.
    link
        Copying to the card, bytes per second.
    launch
        Seconds to start an operation that does next to nothing.
    """

    flops: float
    half_flops: float
    stream: float
    link: float
    launch: float


MODEST = CardSpeed(1e13, 2e13, 2.5e11, 8e9, 8e-6)
"""A small card, for where nothing can be measured: full, or failing."""


def card_speed(device: str) -> CardSpeed:
    """Return what is kept about a card, and measure it where nothing is.

    The file ``gpu-speed.json`` in hsfuse's cache folder has an entry for each card and version of PyTorch. A damaged
    file, and one that cannot be written, are no errors: the card is measured again.
    """
    import torch

    name = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else device
    key = f"{name}, PyTorch {torch.__version__}"
    path = cache_folder().parent / "gpu-speed.json"
    known = _kept(path)
    found = known.get(key)
    if found is not None:
        return found
    try:
        found = measure_card(device)
    except RuntimeError as error:
        _log.debug("The speed of %s cannot be measured: %s", name, error)
        return MODEST
    _keep(path, known | {key: found})
    _log.debug("measured %s: %s", key, found)
    return found


def measure_card(
    device: str, seconds: float = _SECONDS, clock: Callable[[], float] = time.perf_counter
) -> CardSpeed:  # fmt: skip
    """Measure products, copies and launches.

    Parameters
    ----------
    device
        ``cuda:N``; on ``cpu`` the same is measured with small sizes.
    seconds
        For all parts together.
    clock
        Seconds since any moment.
    """
    import torch

    kind = "cuda" if device.startswith("cuda") else "cpu"
    side, values, place = _SIDE[kind], _COPY_VALUES[kind], torch.device(device)
    half = torch.bfloat16 if kind == "cpu" or torch.cuda.get_device_capability(place) >= (8, 0) else torch.float16

    def wait() -> None:
        if kind == "cuda":
            torch.cuda.synchronize(place)

    def rate(work: Callable[[], object], count: int = 1) -> float:
        return _rate(work, wait, seconds / 5, clock, count)

    products = []
    with torch.inference_mode():
        for dtype in (torch.float32, half):
            a, b, out = (torch.ones(side, side, dtype=dtype, device=place) for _ in range(3))
            products.append(rate(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) * 2.0 * side**3)  # type: ignore[misc]
            del a, b, out
        source, target = (torch.ones(values, device=place) for _ in range(2))
        host = torch.ones(values // 4, pin_memory=kind == "cuda")
        stream = rate(lambda: target.copy_(source)) * 8.0 * values
        link = rate(lambda: target[: values // 4].copy_(host, non_blocking=True)) * 1.0 * values
        small = target[:1]
        launch = 1.0 / rate(lambda: small.add_(1.0), _LAUNCHES_AT_ONCE)
    return CardSpeed(products[0], products[1], stream, link, launch)


def _rate(
    work: Callable[[], object], wait: Callable[[], None], seconds: float, clock: Callable[[], float], count: int
) -> float:
    """Calls per second: the best of several rounds, each of which the card has finished."""
    work()  # loads what is loaded late
    wait()
    best, now = 0.0, clock()
    end = now + seconds
    while best == 0.0 or now < end:
        begun = now
        for _ in range(count):
            work()
        wait()
        now = clock()
        best = max(best, count / max(now - begun, 1e-9))
    return best


def _kept(path: Path) -> dict[str, CardSpeed]:
    """Entries of the file; none where it is missing or damaged, and without those that make no sense."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries: dict[str, Any] = content["cards"] if content["schema"] == SCHEMA else {}
        return {key: speed for key, value in entries.items() if (speed := _speed(value)) is not None}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.debug("%s is not used: %s", path, error)
        return {}


def _speed(value: Any) -> CardSpeed | None:
    names = {field.name for field in fields(CardSpeed)}
    if not isinstance(value, dict) or set(value) != names:
        return None
    good = all(isinstance(number, int | float) and math.isfinite(number) and number > 0 for number in value.values())
    return CardSpeed(**value) if good else None


def _keep(path: Path, entries: dict[str, CardSpeed]) -> None:
    content = {"schema": SCHEMA, "cards": {key: asdict(speed) for key, speed in sorted(entries.items())}}
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        _log.debug("%s cannot be written: %s", path, error)


def predict_stages_with(
    card: CardSpeed | None, estimate: Estimate, spec: ModelSpec, samples: int, speed: MachineSpeed, *, judged: bool
) -> StageSeconds:
    """Seconds of each stage from the plan to the finished product, with the method on a card where there is one.

    Cutting out, copying, computing and encoding overlap, so the slowest of them decides.

    Parameters
    ----------
    card
        None: the method runs on the CPU (:func:`~hsfuse.inference.speed.predict_stages`).
    estimate
        Tiles and arithmetic.
    spec
        The method.
    samples
        Samples of the product.
    speed
        Of the machine.
    judged
        Whether the product is judged as well.
    """
    if card is None:
        return predict_stages(estimate, spec, samples, speed, judged=judged)
    host = predict_stages(estimate, replace(spec, learn_flop=0.0), samples, speed, judged=judged)
    product = card.flops if spec.precision == "fp32" else card.half_flops
    calls = math.ceil(len(estimate.plan) / max(estimate.batch, 1))
    moved = _TOUCHED[spec.kind] * estimate.pixels * spec.bytes_per_pixel
    computing = (
        estimate.flop / (_EFFICIENCY * product)
        + moved / (_EFFICIENCY * card.stream)
        + calls * _LAUNCHES[spec.kind] * card.launch
    )
    fuse = max(computing, 4.0 * samples / card.link, seconds_of_host(samples, speed))
    return host._replace(learn=host.learn + spec.learn_flop / (_EFFICIENCY * card.flops), fuse=fuse)
