"""Fit how far each band of MPSRNet-Diff believes its prior, in closed form, on cubes of training sites.

    python benchmarks/train_zoo/prior_share.py --weights IN --data CUBES --output OUT [--steps 4]

Every step of the network starts from its base estimate plus a share of the prior's difference to it. The share of a
band that leaves the smallest squared error on reduced pairs of the training sites is a ratio of two sums; nothing else
of the network is changed.
"""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hsfuse.config import TrainConfig
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import load_weights, save_weights
from hsfuse.fusion.registry import architecture
from hsfuse.grid import Slice2D
from hsfuse.progress import SilentProgress
from hsfuse.training.augment import FULL, Disturbance
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.reducer import Reducer
from hsfuse.training.source import Sampling
from hsfuse.workflows.training.training_data import collect
from hsfuse.workflows.training.training_inputs import TrainingInput

RATIO, SIDE_PX, LEAST_PX, DRAWS = 6, 96, 60, 2
LIMITS = (0.0, 0.6)
Vector = NDArray[np.float64]


def sums(path: Path, header: NetworkHeader, network: torch.nn.Module) -> tuple[Vector, Vector]:
    """Products of the prior's difference with the error, and with itself, by band."""
    config = TrainConfig.resolve(None, guide="pan", ratio=str(RATIO), steps=1)
    data = collect([TrainingInput(path, ())], config, header, SilentProgress())
    scene = data.entries[0].load()
    height, width = (min(size, SIDE_PX) // RATIO * RATIO for size in scene.valid.shape)
    zero = np.zeros(len(header.centre_nm))
    if min(height, width) < LEAST_PX:
        return zero, zero.copy()
    centre, fwhm = np.asarray(header.centre_nm), np.asarray(header.fwhm_nm)
    task = architecture(header.architecture).task(  # type: ignore[misc]
        network, TaskSetup(data.entries, Sampling(ratios=(RATIO,), validation_share=0.2, gap_px=0), centre, fwhm)
    )
    product, square = zero, zero.copy()
    for draw in range(DRAWS):
        disturbance = Disturbance.draw(FULL, np.random.default_rng([7, draw]))
        pair = Reducer(centre, fwhm).make(scene, Slice2D(0, height, 0, width), RATIO, disturbance)
        pair = task.prepare(pair)
        estimate, prior = pair.images["estimate"], pair.images["prior"]
        unit = pair.values["base_rms"][0][:, None, None].clamp(min=1e-4)
        difference, error = ((image - estimate) / unit for image in (prior, pair.target))
        product = product + (difference * error * pair.valid).mean(dim=(1, 2)).numpy()
        square = square + (difference.square() * pair.valid).mean(dim=(1, 2)).numpy()
    return product, square


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with the cubes of the sites")
    parser.add_argument("--sites", type=Path, default=Path(__file__).parents[1] / "sites.toml")
    parser.add_argument("--steps", type=int, default=4, help="sampling steps, kept in the weights")
    parser.add_argument("--name", help="name kept in the weights; default: as they have it")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_weights(given.weights)
    header = replace(
        loaded.header,
        name=given.name or loaded.header.name,
        config=loaded.header.config | {"prior_steps": given.steps, "training_steps": given.steps},
    )  # fmt: skip
    network = architecture(header.architecture).build(header.config)
    network.load_state_dict(loaded.network.state_dict())
    sites = tomllib.loads(given.sites.read_text(encoding="utf-8"))
    own = set(sites["bands"]["own"])
    product, square = np.zeros(len(header.centre_nm)), np.zeros(len(header.centre_nm))
    used = []
    for name in (name for names in sites["train"].values() for name in names if name not in own):
        path = given.data / f"{name}.npz"
        if not path.is_file():
            continue
        try:
            more = sums(path, header, network.eval())
        except Exception as error:  # a cube without the network's bands, or too small
            print(f"{name}: left out ({error})")
            continue
        if more[1].any():
            used.append(name)
            product, square = product + more[0], square + more[1]
            print(f"{name}: share {np.clip(more[0] / np.maximum(more[1], 1e-12), -1, 1).mean():.3f}", flush=True)
    share = np.clip(product / np.maximum(square, 1e-12), *LIMITS)
    with torch.no_grad():
        network.share.copy_(torch.as_tensor(share, dtype=torch.float32))  # type: ignore[operator,union-attr]
    print(f"share of the prior: {share.min():.3f} to {share.max():.3f}, mean {share.mean():.3f}")
    record = header.training | {"share": {"cubes": used, "mean": round(float(share.mean()), 4)}}
    save_weights(given.output, network, replace(header, training=record), dtype="bf16")


if __name__ == "__main__":
    main()
