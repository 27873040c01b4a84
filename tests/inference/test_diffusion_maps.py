"""Mamba-Diffusion over a scene: one map, however the work is shared."""

import numpy as np
import pytest
import torch
from multimodal_models import identity

from rsmamba_cli.inference import PredictOptions, merge, predict
from rsmamba_models import CheckpointMeta, ClassInfo, InputSpec, create_model, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    network = create_model("mamba_diffusion_nano", in_chans=(3, 1), num_classes=3)
    meta = CheckpointMeta(
        architecture=network.architecture,
        arguments=network.arguments,
        task="multimodal",
        inputs=(
            InputSpec(name="optical", bands=("red", "green", "blue"), transform=identity(3)),
            InputSpec(name="sar", bands=("vv",), transform=identity(1), dtype="float32"),
        ),
        classes=tuple(ClassInfo(value=i, name=f"c{i}", color=(i, 0, 0)) for i in range(3)),
        output="softmax",
        tile=64,
        size_multiple=network.size_multiple,
    )
    path = tmp_path_factory.mktemp("model") / "diffusion.safetensors"
    save_checkpoint(path, network, meta)
    return path


@pytest.fixture
def run(scene_factory, model, tmp_path, monkeypatch):
    """Map the same pair; the bytes of the mask and of the probabilities."""
    rng = np.random.default_rng(0)
    scene = scene_factory("o.tif", height=100, width=90, gsd=2.0)
    radar = rng.normal(size=(1, 170, 150)).astype("f4")
    scene_factory("s.tif", values=radar, gsd=1.3, origin=(499_990.0, 5_700_007.0))
    monkeypatch.chdir(tmp_path)  # so that a worker elsewhere has to find s.tif

    def start(**options):
        probabilities = tmp_path / "p.tif"
        wanted = PredictOptions(
            model=model, sar="s.tif", threads=1, probabilities=probabilities, **options
        )
        predict(scene, tmp_path / "m.tif", wanted)
        return read()

    def read():
        found = [tmp_path / name for name in ("m.tif", "p.tif")]
        return [path.read_bytes() if path.exists() else None for path in found]

    start.read = read
    return start


def test_parts_and_workers_make_the_map_of_one_run(run, tmp_path):
    alone = run(seed=5)
    assert run(seed=6, overwrite=True)[1] != alone[1]
    assert run(seed=5, overwrite=True, workers=2) == alone
    for path in (tmp_path / "m.tif", tmp_path / "p.tif"):
        path.unlink()
    for part in ((2, 2), (1, 2)):
        run(seed=5, shard=part)
    merge(tmp_path / "m.tif")
    assert run.read() == alone


def test_ddpm_draws_in_every_step_and_stays_reproducible(run):
    first = run(sampler="ddpm", steps=4)
    assert run(sampler="ddpm", steps=4, overwrite=True) == first
    assert run(sampler="ddim", steps=4, overwrite=True) != first
