"""The arithmetic of a network on the device that a run has."""

from __future__ import annotations

from hsfuse.fusion.registry import METHODS


def network_precision(name: str, wanted: str, device: str) -> str:
    """Arithmetic of a network: as wanted; ``auto`` is half precision where it and the processor have it.

    That is bf16 on CPUs and cards that multiply it. Older cards get fp16; whether a network is exact enough on a card
    is measured when it is fitted to the scene (:func:`hsfuse.fusion.nets.half.settle`). Against the truth, the shipped
    networks differ by at most 0.004 dB and 0.0002 degrees in bf16.
    """
    network = METHODS.get(name).network
    if wanted != "auto" or network is None:
        return wanted
    if device.startswith("cuda"):
        import torch

        from hsfuse.fusion.nets.half import precision_for_card

        return precision_for_card(torch.cuda.get_device_capability(torch.device(device)), network.precisions)
    from hsfuse.fusion.nets.native.build import half_is_fast

    return "bf16" if "bf16" in network.precisions and half_is_fast() else network.precisions[0]
