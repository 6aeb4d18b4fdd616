"""Processes that train together: they learn what one learns, stop together, resume exactly and fail with one code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.running_sum import by_doubling
from hsfuse.training.determinism import deterministic_algorithms
from hsfuse.training.distributed import Team
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import train

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no torch.distributed")

MEMBER = Path(__file__).with_name("team_member.py")


def torchrun(*arguments: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Start two processes on this machine, one thread each."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        capture_output=True, text=True, check=False, timeout=seconds, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What two processes left behind, and what they said."""
    folder = tmp_path_factory.mktemp("team")
    done = torchrun(str(MEMBER), str(folder))
    assert done.returncode != 0, "the last thing they do is to fail"
    assert (folder / "facts-0.json").is_file(), done.stderr[-2000:]
    return folder, done.stderr


def test_two_processes_learn_what_one_learns(together: tuple[Path, str], setup: Callable[..., TaskSetup]) -> None:
    from team_member import trained

    folder, _ = together
    alone = trained(setup(), Team())
    first, second = (load_file(folder / f"whole-{rank}.safetensors") for rank in (0, 1))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=1e-4)


def test_only_the_first_process_writes(together: tuple[Path, str]) -> None:
    folder, _ = together
    assert (folder / "0.csv").is_file()
    assert not (folder / "1.csv").exists()


def test_all_stop_when_one_is_told_to_and_go_on_exactly(together: tuple[Path, str]) -> None:
    folder, _ = together
    for rank in (0, 1):
        assert json.loads((folder / f"facts-{rank}.json").read_text())["stopped"]
        whole, resumed = (load_file(folder / f"{name}-{rank}.safetensors") for name in ("whole", "resumed"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_random_numbers_differ_by_process_and_step(together: tuple[Path, str]) -> None:
    folder, _ = together
    seeds = [seed for rank in (0, 1) for seed in json.loads((folder / f"facts-{rank}.json").read_text())["seeds"]]
    assert len(seeds) == len(set(seeds)) >= 6


def test_a_failure_ends_all_with_its_exit_code(together: tuple[Path, str]) -> None:
    folder, said = together
    codes, messages = zip(*(json.loads((folder / f"failure-{rank}.json").read_text()) for rank in (0, 1)), strict=True)
    assert codes == (7, 7)
    assert messages == ("Training process 1 failed: There is no room.", "There is no room.")
    assert "exitcode  : 7" in said, "torchrun tells the code of the process that failed first"


def test_a_batch_is_shared_by_no_more_processes_than_it_has_patches(setup: Callable[..., TaskSetup]) -> None:
    from team_member import QUICK, make_adversarial

    with pytest.raises(UsageError, match="A batch of 2 cannot be shared by 3 processes"):
        train(make_adversarial(setup(batch=2)), QUICK, team=Team(0, 3))


def test_deterministic_algorithms_leave_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn
    before = (torch.get_deterministic_debug_mode(), cudnn.benchmark, cudnn.deterministic)

    def nondeterministic() -> None:
        with deterministic_algorithms():
            assert torch.are_deterministic_algorithms_enabled()
            assert cudnn.deterministic
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            raise RuntimeError("upsample_cuda does not have a deterministic implementation, but you set ...")

    with pytest.raises(UsageError, match="uses upsample_cuda, which has no deterministic form"):
        nondeterministic()
    assert before == (torch.get_deterministic_debug_mode(), cudnn.benchmark, cudnn.deterministic)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_running_sums_by_doubling() -> None:
    x = torch.randn(3, 37, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.testing.assert_close(by_doubling(x, 1), x.cumsum(1))
    assert torch.autograd.gradcheck(lambda t: by_doubling(t, 1), (x,))
