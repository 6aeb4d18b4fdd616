"""Training: it learns, it stops, it resumes exactly, and it says when it goes wrong."""

from __future__ import annotations

import copy
import csv
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hsfuse.errors import InputError, OutputError, TrainingDivergedError, UsageError
from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.methods.ssrnet.network import Ssrnet
from hsfuse.progress import Stage
from hsfuse.training.distributed import Team
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import Trainer, train
from hsfuse.training.losses import FusionLoss
from hsfuse.training.pair_task import PairTask
from hsfuse.training.settings import LoopSettings, TrainingFiles
from hsfuse.training.validation import ValidationScores

Setup = Callable[..., TaskSetup]
Network = Callable[[], Ssrnet]

QUICK = LoopSettings(steps=6, validate_every=3, micro_batch=4, warmup_steps=1)


class _BoomError(Exception):
    """Stands for a death without warning."""


class _Hook:
    """A progress display that does something at its n-th advance (one a step)."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self._left, self._action = at, action

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        yield self

    def advance(self, amount: float = 1.0) -> None:
        self._left -= 1
        if self._left == 0:
            self._action()


def _die() -> None:
    raise _BoomError


def _weights(network: Ssrnet) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in network.state_dict().items()}


def _spoilt(network: Ssrnet) -> Ssrnet:
    """Make it so bad that the last step is the best one, and its weights the result."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns(setup: Setup, tiny: Network) -> None:
    settings = LoopSettings(steps=24, validate_every=8, micro_batch=4, learning_rate=3e-3)
    result = train(PairTask(_spoilt(tiny()), setup()), settings)
    assert result.best.psnr_db > result.first.psnr_db + 1.0
    assert result.best_step > 0
    assert result.stopped == "budget"
    assert [entry["step"] for entry in result.history] == [0, 8, 16, 24]


def test_an_untrained_network_is_its_base_estimate_and_stays_when_training_does_not_help(
    setup: Setup, tiny: Network
) -> None:
    network = tiny()
    before = _weights(network)
    result = train(
        PairTask(network, setup()), LoopSettings(steps=3, validate_every=3, micro_batch=4, learning_rate=1e-12)
    )
    assert result.first.gain_db == pytest.approx(0.0, abs=1e-4)
    assert result.best_step == 0
    assert _same(before, _weights(network))


@pytest.mark.parametrize("dead", [False, True])
def test_resuming_gives_the_same_weights(setup: Setup, tiny: Network, tmp_path: Path, dead: bool) -> None:
    whole = _spoilt(tiny())
    train(PairTask(whole, setup()), QUICK, files=TrainingFiles(log=tmp_path / "whole.csv"))
    files = TrainingFiles(tmp_path / "state.safetensors", tmp_path / "part.csv", identity={"seed": 0})
    # Either a signal, which saves on the way out, or a death that leaves only the last periodic checkpoint.
    action = _die if dead else lambda: os.kill(os.getpid(), signal.SIGTERM)
    settings = LoopSettings(**{**vars(QUICK), "checkpoint_minutes": 1e-9})
    with pytest.raises(_BoomError if dead else KeyboardInterrupt):
        train(PairTask(_spoilt(tiny()), setup()), settings, files=files, progress=_Hook(5, action))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = tiny()
    # Neither fresh weights nor the state of the random numbers may matter.
    torch.manual_seed(99)
    result = train(PairTask(resumed, setup()), settings,
                   files=TrainingFiles(files.checkpoint, files.log, resume=True, identity={"seed": 0}))  # fmt: skip
    assert result.steps == 6
    assert _same(_weights(whole), _weights(resumed))
    assert result.best_step == 6
    logs = [list(csv.DictReader((tmp_path / name).read_text().splitlines())) for name in ("whole.csv", "part.csv")]
    shown = ("step", "learning_rate", "loss", "gradient_norm", "psnr_db")
    assert [[row[name] for name in shown] for row in logs[0]] == [[row[name] for name in shown] for row in logs[1]]


def test_micro_batches_add_up(setup: Setup, tiny: Network) -> None:
    networks = []
    for size in (4, 1):
        network = tiny()
        # Plain gradient steps: Adam would blow rounding up where a gradient is about zero.
        train(PairTask(network, setup()), LoopSettings(steps=2, validate_every=2, micro_batch=size, ema=0.0))
        networks.append(_weights(network))
    for name, tensor in networks[0].items():
        torch.testing.assert_close(tensor, networks[1][name], atol=2e-4, rtol=1e-2)


def test_recomputing_changes_no_gradient() -> None:
    """The paper's network, made narrow: what is computed twice gives the gradients of what was kept."""
    torch.manual_seed(0)
    network = Ssrfn(SsrfnConfig(n_bands=12, width=16, headdim=16, d_state=8, dfe_blocks=1, scm_steps=2,
                                cfe_cycles=2, refine_stages=1))  # fmt: skip
    hsi, msi, kept = torch.rand(2, 12, 4, 4), torch.rand(2, 4, 12, 12), []
    found: list[dict[str, torch.Tensor]] = []
    for recompute in (False, True):
        network.set_recompute(recompute)
        network.zero_grad()
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(hsi, msi).square().mean()
        kept.append(sum(saved.values()))
        loss.backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert kept[1] < 0.7 * kept[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_two_members_do_the_work_of_one(setup: Setup, tiny: Network) -> None:
    """The gradient of the global batch is the sum of the members' gradients."""
    total, learners = {}, []
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        task = PairTask(tiny(), setup())
        trainer = Trainer(task, QUICK, TrainingFiles(), Team(), "cpu")
        learners.append(trainer.learners[0])
        total[rank, size] = trainer.gradients.of(learners[-1], task.sample(0, rank, size))
    assert total[0, 1] == pytest.approx(total[0, 2] + total[1, 2], rel=1e-5)
    for whole, first, second in zip(*(learner.parameters for learner in learners), strict=True):
        assert whole.grad is not None
        assert first.grad is not None
        assert second.grad is not None
        torch.testing.assert_close(whole.grad, first.grad + second.grad, atol=1e-6, rtol=1e-4)


def test_early_stopping(setup: Setup, tiny: Network) -> None:
    settings = LoopSettings(steps=50, validate_every=1, patience=2, learning_rate=1e-12, micro_batch=4)
    result = train(PairTask(tiny(), setup()), settings)
    assert result.stopped == "no more improvement"
    assert result.steps == 2
    assert result.best_step == 0


@pytest.mark.parametrize(
    ("qualities", "best"),
    [((30.0, 30.1, 30.104, 30.108, 30.107), 3), ((30.0, 30.004, 30.008, 30.006, 30.002), 0)],
    ids=["small steps at the end", "no gain over what it began with"],
)
def test_the_best_of_what_was_trained_is_kept(
    setup: Setup, tiny: Network, monkeypatch: pytest.MonkeyPatch, qualities: tuple[float, ...], best: int
) -> None:
    task, ahead = PairTask(tiny(), setup()), iter(qualities)
    monkeypatch.setattr(task, "validate", lambda team: ValidationScores(next(ahead), 1.0, 30.0, 1.0, 0.0))
    result = train(task, LoopSettings(steps=4, validate_every=1, micro_batch=4))
    assert result.best_step == best


def test_minutes_are_a_budget(setup: Setup, tiny: Network) -> None:
    result = train(PairTask(tiny(), setup()), LoopSettings(minutes=1e-5, validate_every=100, micro_batch=4))
    assert result.stopped == "budget"
    assert 1 <= result.steps <= 2


def test_bf16_trains(setup: Setup, tiny: Network) -> None:
    network, seen = _spoilt(tiny()), set()
    network.spatial.register_forward_hook(lambda module, args, out: seen.add((module.training, out.dtype)))
    settings = LoopSettings(steps=4, validate_every=4, micro_batch=4, learning_rate=3e-3, precision="bf16")
    result = train(PairTask(network, setup()), settings)
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}, "half precision in training, not in validation"
    assert result.best.quality > result.first.quality + 0.1
    assert all(p.dtype == torch.float32 for p in result.network.parameters())


def test_nan_is_an_error(setup: Setup, tiny: Network) -> None:
    network = tiny()
    with torch.no_grad():
        next(iter(network.parameters())).fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="not finite"):
        train(PairTask(network, setup()), QUICK)


def test_nan_loss_is_an_error(setup: Setup, tiny: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusionLoss, "__call__", lambda self, e, *rest: e.mean(dim=(1, 2, 3)) * float("nan"))
    network = tiny()
    before = _weights(network)
    with pytest.raises(TrainingDivergedError, match="not a number since step 1"):
        train(PairTask(network, setup()), QUICK)
    assert _same(before, _weights(network))


def test_growing_loss_is_an_error(setup: Setup, tiny: Network) -> None:
    settings = LoopSettings(steps=400, validate_every=400, learning_rate=30.0, clip=0.0, warmup_steps=400,
                            micro_batch=4, schedule="constant")  # fmt: skip
    with pytest.raises(TrainingDivergedError, match=r"grew from|not a number|not finite"):
        train(PairTask(tiny(), setup(batch=1)), settings)


def test_without_budget_is_an_error() -> None:
    with pytest.raises(UsageError, match="budget"):
        LoopSettings()


def _interrupted(setup: Setup, tiny: Network, path: Path) -> TrainingFiles:
    files = TrainingFiles(path, identity={"lr": 1})
    with pytest.raises(KeyboardInterrupt):
        train(PairTask(tiny(), setup()), QUICK, files=files,
              progress=_Hook(2, lambda: os.kill(os.getpid(), signal.SIGINT)))  # fmt: skip
    return files


def test_resuming_needs_the_same_settings_and_network(setup: Setup, tiny: Network, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    _interrupted(setup, tiny, path)
    with pytest.raises(UsageError, match=r"other settings or data \(lr\)"):
        train(PairTask(tiny(), setup()), QUICK, files=TrainingFiles(path, resume=True, identity={"lr": 2}))
    other = copy.deepcopy(tiny())
    other.spatial = None
    with pytest.raises(InputError, match=r"belongs to another network|does not fit"):
        train(PairTask(other, setup()), QUICK, files=TrainingFiles(path, resume=True, identity={"lr": 1}))


def test_a_full_disk_keeps_the_old_checkpoint(
    setup: Setup, tiny: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    files = _interrupted(setup, tiny, path)
    kept = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hsfuse.training.checkpoint.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        train(PairTask(tiny(), setup()), QUICK, files=TrainingFiles(path, resume=True, identity=files.identity))
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
