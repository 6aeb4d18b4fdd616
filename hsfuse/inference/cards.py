"""The graphics cards of this machine as PyTorch sees them, which one to take, and why none can be used."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsfuse.errors import DeviceError
from hsfuse.log import get_logger

_log = get_logger(__name__)

_NODES = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/dxg", "/dev/kfd")
"""How Linux shows GPUs: NVIDIA's driver, its small boards, Windows' subsystem, AMD's driver."""
_USE_CPU = "Use --device cpu"
_GUIDE = "docs/gpu.md names the wheels"


@dataclass(frozen=True)
class Card:
    """A graphics card.

    Attributes
    ----------
    index
        N of ``cuda:N``.
    name
        As the driver gives it.
    capability
        Compute capability (major, minor).
    memory, free
        Bytes in all, and those that no process has; None: the card does not answer.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory: int
    free: int | None

    @property
    def device(self) -> str:
        """Name of the torch device."""
        return f"cuda:{self.index}"


def node_present() -> bool:
    """Whether Linux shows a graphics card: without one nothing has to be asked of PyTorch."""
    return any(Path(node).exists() for node in _NODES)


def find_cards() -> list[Card]:
    """Return all cards that PyTorch sees; empty where it sees none (:func:`obstacle` says why)."""
    import torch

    found: list[Card] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        try:
            free: int | None = int(torch.cuda.mem_get_info(index)[0])
        except RuntimeError as error:  # lost, or another process has it for itself
            _log.debug("GPU %d does not tell its memory: %s", index, error)
            free = None
        capability = (int(properties.major), int(properties.minor))
        found.append(Card(index, str(properties.name), capability, int(properties.total_memory), free))
    return found


def runs_on(card: Card) -> bool:
    """Whether this PyTorch was built for a card."""
    import torch

    names = [name for name in torch.cuda.get_arch_list() if "_" in name]  # AMD's have none
    for name in names:
        built = _capability_of(name)
        # Machine code serves later cards of its generation, PTX ("compute_") all later ones.
        same = name.startswith("compute") or card.capability[0] == built[0]
        if same and card.capability >= built:
            return True
    return not names


def _capability_of(architecture: str) -> tuple[int, int]:
    """Compute capability of ``sm_90a`` or ``compute_120``."""
    number = architecture.split("_")[1].rstrip("af")
    return int(number[:-1]), int(number[-1])


def unusable(card: Card) -> DeviceError | None:
    """Why a card that is there cannot be used; None where it can."""
    import torch

    if not runs_on(card):
        major, minor = card.capability
        return DeviceError(
            f"GPU {card.index} ({card.name}, compute capability {major}.{minor}) is none that PyTorch"
            f" {torch.__version__} was built for ({', '.join(torch.cuda.get_arch_list())}).",
            hint=f"{_USE_CPU}, or install a PyTorch that serves this card ({_GUIDE}).",
        )
    if card.free is None:
        return DeviceError(
            f"GPU {card.index} ({card.name}) does not answer: it failed, or another process has it for itself.",
            hint=f"{_USE_CPU}, name another GPU, or look at it with nvidia-smi.",
        )
    return None


def obstacle() -> DeviceError | None:
    """Why PyTorch sees no card at all; None where it sees one."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count():
        return None
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return DeviceError(
            f"This PyTorch ({torch.__version__}) was built without CUDA.",
            hint=f"{_USE_CPU}, or install PyTorch from the index that fits the driver ({_GUIDE}).",
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return DeviceError(
            "CUDA_VISIBLE_DEVICES hides every GPU.", hint=f"Unset it or name a GPU in it, or {_USE_CPU.lower()}."
        )
    begin: Any = torch.cuda.init
    try:
        begin()
    except (RuntimeError, AssertionError) as error:
        return _driver_error(str(error))
    return DeviceError("PyTorch finds no GPU.", hint=f"{_USE_CPU}; nvidia-smi shows what the driver sees.")


def _driver_error(text: str) -> DeviceError:
    """What PyTorch says about a driver, in one sentence."""
    import torch

    if "too old" in text:
        return DeviceError(
            f"The NVIDIA driver is older than PyTorch {torch.__version__} (CUDA {torch.version.cuda}) needs.",
            hint=f"Update the driver, install a PyTorch for an older CUDA ({_GUIDE}), or {_USE_CPU.lower()}.",
        )
    if "no NVIDIA driver" in text or "driver can't be loaded" in text:
        return DeviceError(
            "There is no NVIDIA driver on this machine.",
            hint=f"Install the driver (in a container: start it with --gpus all), or {_USE_CPU.lower()}.",
        )
    return DeviceError(
        f"PyTorch cannot use the GPU: {text.splitlines()[0].rstrip('.') if text else 'no reason given'}.",
        hint=f"{_USE_CPU}; nvidia-smi shows what the driver sees.",
    )


def freest(cards: Sequence[Card]) -> Card | None:
    """The usable card with the most free memory, the first one of equals; None where no card can be used."""
    usable = [card for card in cards if unusable(card) is None]
    return max(usable, key=lambda card: (card.free or 0, -card.index), default=None)


def automatic_device(*, needed: bool) -> str:
    """Return the card with the most free memory, or ``cpu`` where no card can be used (the log says why).

    Parameters
    ----------
    needed
        A GPU was asked for: where none can be used, raise instead.

    Raises
    ------
    DeviceError
        No card can be used, and one is ``needed``.
    """
    cards = find_cards()
    card = freest(cards)
    if card is not None:
        if len(cards) > 1:
            _log.info("GPU %d (%s) has the most free memory of %d.", card.index, card.name, len(cards))
        return card.device
    error = unusable(cards[0]) if cards else obstacle()
    error = error or DeviceError("PyTorch finds no GPU.", hint=f"{_USE_CPU}.")
    if needed:
        raise error
    _log.warning("The CPU is used: %s", error.message)
    return "cpu"


def named_device(index: int) -> str:
    """Return ``cuda:N`` after making sure that the card can be used.

    Raises
    ------
    DeviceError
        There is no such card, or it cannot be used.
    """
    cards = find_cards()
    if index < len(cards):
        error = unusable(cards[index])
        if error is not None:
            raise error
        return cards[index].device
    why = obstacle()
    many = f"{len(cards)} CUDA device{'s' if len(cards) != 1 else ''} found"
    raise DeviceError(
        f"There is no GPU {index}: {why.message[:1].lower() + why.message[1:] if why else many + '.'}",
        hint=why.hint if why else f"{_USE_CPU}; `hsfuse doctor` shows what PyTorch sees.",
    )


def free_bytes(device: str) -> int:
    """Bytes that this process can take of a card: what nobody has, and what it holds itself without using it."""
    import torch

    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return int(free) + int(torch.cuda.memory_reserved(device)) - int(torch.cuda.memory_allocated(device))


def warm_up(device: str) -> threading.Thread:
    """Let a card load what methods need, beside the work of the processor; returns at once.

    The first product, convolution and factor on a card wait until their libraries are there, a second or more. What is
    wrong with a card is said by whoever uses it.
    """

    def load() -> None:
        import torch

        with contextlib.suppress(RuntimeError), torch.no_grad():
            square = torch.eye(8, device=device)
            lower, _ = torch.linalg.cholesky_ex((square @ square)[None])
            torch.cholesky_solve(square[None], lower)
            torch.nn.functional.conv2d(square[None, None], square[None, None, :3, :3])

    thread = threading.Thread(target=load, name="hsfuse-warm-up", daemon=True)
    thread.start()
    return thread


def computed_on(device: str, precision: str) -> str:
    """What decides the last bits of a result, in words: ``cpu in fp32``, ``NVIDIA H100 in bf16``."""
    if not device.startswith("cuda"):
        return f"{device} in {precision}"
    import torch

    return f"{torch.cuda.get_device_name(torch.device(device))} in {precision}"
