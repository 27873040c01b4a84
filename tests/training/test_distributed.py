"""Two processes on the CPU do what one does with twice the batch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsmamba_cli.errors import DeviceError
from rsmamba_cli.training.devices import processes
from rsmamba_cli.training.recipe import LoopPart

ROOT = Path(__file__).parents[2]

SETTINGS = (
    "model.name=rsm_ss_nano",
    "model.arguments={dims: [8, 16, 32, 64], depths: [1, 1, 1, 1], ssm_d_state: 2}",
    *("data.crop=64", "data.workers=0", "augment={flip: 0, transpose: 0}"),
    *("loss.dice=0", "optimiser.kind=sgd", "optimiser.lr=0.05", "schedule.warmup_steps=0"),
    *("loop.epochs=2", "loop.pictures=1", "loop.log_every=1", "loop.device=cpu"),
)
"""The whole tile is the sample and the loss a mean over pixels: nothing depends on who draws it."""


def run(
    out: Path, data: Path, *settings: str, launcher: tuple[str, ...] = (), resume: bool = False
) -> dict:
    """Train in a process of its own; returns the JSON it prints."""
    words = [*(launcher or (sys.executable,)), "-m", "rsmamba_cli", "train", "--json", "--quiet"]
    words += ["--dataset", "folder", "--data", str(data), "--out", str(out)]
    words += ["--resume"] if resume else []
    for line in (*SETTINGS, *settings):
        words += ["--set", line]
    path = f"{ROOT}{os.pathsep}{ROOT / 'models'}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def state(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "state.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, buildings: Path) -> Path:
    """One process, batches of four."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(out, buildings, "data.batch_size=4")
    return out


def assert_same_course(pair: Path, alone: Path) -> None:
    assert losses(pair) == pytest.approx(losses(alone), rel=1e-4)
    before, after = state(alone), state(pair)
    for name, tensor in before.items():
        assert torch.allclose(tensor, after[name], rtol=1e-4, atol=1e-5), name


def test_two_processes_equal_one_with_twice_the_batch(
    tmp_path: Path, buildings: Path, alone: Path
) -> None:
    result = run(tmp_path / "run", buildings, "data.batch_size=2", "loop.devices=2")
    assert_same_course(tmp_path / "run", alone)
    one = json.loads((alone / "log.jsonl").read_text().splitlines()[-1])
    assert result["last_metrics"]["nll"] == pytest.approx(one["val_nll"], rel=1e-4)
    pages = [(out / "report.html").read_text() for out in (tmp_path / "run", alone)]
    shown = [re.findall(r'<img alt="(.*?)"', page) for page in pages]
    assert shown[0] == shown[1] and len(shown[0]) == 2  # the worst tile and a random one


def test_torchrun_s_processes_are_taken(tmp_path: Path, buildings: Path, alone: Path) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    run(tmp_path / "run", buildings, "data.batch_size=2", launcher=launcher)
    assert_same_course(tmp_path / "run", alone)
    assert "devices: 2" in (tmp_path / "run/recipe.yaml").read_text()


@pytest.mark.slow
def test_without_shared_statistics_the_course_is_another(
    tmp_path: Path, buildings: Path, alone: Path
) -> None:
    settings = ("data.batch_size=2", "loop.devices=2", "model.sync_batchnorm=false")
    run(tmp_path / "run", buildings, *settings)
    assert losses(tmp_path / "run")[-1] != pytest.approx(losses(alone)[-1], rel=1e-4)


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_equals_one_in_one_piece(
    tmp_path: Path, buildings: Path
) -> None:
    noisy = (
        *("data.batch_size=1", "loop.devices=2", "loop.epochs=none", "loop.steps=4"),
        "model.arguments.drop_path_rate=0.5",
    )
    run(tmp_path / "whole", buildings, *noisy)
    run(tmp_path / "parts", buildings, *noisy, "loop.limit_steps=2")
    run(tmp_path / "parts", buildings, *noisy, resume=True)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_slurm_s_tasks_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(LoopPart(devices=3, nodes=2)) == (3, 2)
    slurm = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}
    for name, value in {**slurm, "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    assert processes(LoopPart()) == (4, 2)
    with pytest.raises(DeviceError, match="4 processes on each of 2 machines"):
        processes(LoopPart(devices=3))


def test_no_scheduler_is_seen_where_there_is_none() -> None:
    assert processes(LoopPart()) == (1, 1)
