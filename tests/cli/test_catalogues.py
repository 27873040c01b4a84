"""``rsmamba models``, ``datasets`` and ``checkpoint``."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsmamba_models import create_model, import_official, load_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from cases import Case


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """Official weights of a small RSM-SS as a training script saves them."""
    path = tmp_path_factory.mktemp("official") / "RSM_SS best.pth"
    state = Case("rs_mamba", "ss_small_64").state_dict()
    torch.save({"net": {key: torch.from_numpy(value) for key, value in state.items()}}, path)
    return path


def tile_folder(root: Path, spoil: bool = False) -> Path:
    for split in ("train", "val", "test"):
        for folder, shape in (("image", (32, 32, 3)), ("label", (32, 32))):
            path = root / split / folder / "0.png"
            path.parent.mkdir(parents=True)
            values = np.zeros(shape, np.uint8)
            values[:8] = 1
            Image.fromarray(values).save(path)
    if spoil:
        path.write_bytes(path.read_bytes()[:40])
    return root


def test_models_are_listed(cli_json) -> None:
    models = {info["name"]: info for info in cli_json("models")}
    assert models["rsm_ss_tiny"]["parameters"] == 50_379_057
    assert models["rsm_cd_tiny"]["task"] == "change"


def test_models_by_pattern(cli) -> None:
    text = cli("models", "rsm_cd_*").stdout
    assert "rsm_cd_nano" in text
    assert "rsm_ss" not in text


def test_no_model_by_this_name(refuses) -> None:
    assert "resnet" in refuses("models", "resnet")


def test_the_catalogue(cli, cli_json) -> None:
    names = {info["name"] for info in cli_json("datasets")}
    assert names >= {"demo", "folder", "whu", "whu-cd", "levir-cd", "massachusetts-roads"}
    assert "levir-cd" in cli("datasets").stdout


def test_one_dataset(cli, cli_json) -> None:
    assert cli_json("datasets", "whu")["splits"]["train"] == 4736
    assert "gpcv.whu.edu.cn" in cli("datasets", "whu").stdout


def test_no_dataset_by_this_name(refuses) -> None:
    assert "whu" in refuses("datasets", "whuu")


def test_check_of_a_good_folder(cli, cli_json, tmp_path) -> None:
    folder = tile_folder(tmp_path / "data")
    report = cli_json("datasets", "check", "folder", folder)
    assert (report["ok"], report["splits"]["train"]["tiles"]) == (True, 1)
    assert "segmentation" in cli("datasets", "check", "folder", folder).stdout


def test_check_of_a_damaged_folder(cli, tmp_path) -> None:
    result = cli("datasets", "check", "folder", tile_folder(tmp_path / "data", spoil=True))
    assert result.exit_code == 1
    assert "error:" in result.stderr


def test_check_of_a_missing_folder(refuses) -> None:
    assert "nowhere" in refuses("datasets", "check", "whu", "nowhere")


def test_prepare(cli_json, tmp_path) -> None:
    tile_folder(tmp_path / "raw")
    report = cli_json("datasets", "prepare", "whu", "raw", "ready")
    assert report["tiles"] == {"train": 1, "val": 1, "test": 1}
    assert Path("ready/train/image").is_dir()


def test_prepare_keeps_what_is_there(refuses, tmp_path) -> None:
    tile_folder(tmp_path / "raw")
    Path("ready").mkdir()
    refuses("datasets", "prepare", "whu", "raw", "ready")
    assert list(Path("ready").iterdir()) == []


def test_checkpoint_show(cli, cli_json, checkpoint_factory) -> None:
    path = checkpoint_factory("segmentation")
    data = cli_json("checkpoint", "show", path)
    assert data["architecture"] == "rsm_ss_nano"
    assert data["parameters"] == sum(
        p.numel() for p in load_checkpoint(path)[0].state_dict().values()
    )
    assert "class1 (1)" in cli("checkpoint", "show", path, "--verify").stdout


def test_checkpoint_show_without_a_file(refuses) -> None:
    assert "none.safetensors" in refuses("checkpoint", "show", "none.safetensors")


def test_verification_finds_damage(refuses, cli, checkpoint_factory, tmp_path) -> None:
    content = bytearray(checkpoint_factory("segmentation").read_bytes())
    content[-50] ^= 0xFF
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content)
    assert cli("checkpoint", "show", broken).exit_code == 0
    assert "checksum" in refuses("checkpoint", "show", broken, "--verify")


def test_import_keeps_the_meaning_of_official_weights(cli_json, official) -> None:
    data = cli_json("checkpoint", "import", official, "--family", "rs_mamba")
    assert data["file"] == "RSM_SS best.safetensors"
    ours, meta = load_checkpoint(data["file"])
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = import_official(official, family="rs_mamba")(image)
        assert torch.equal(ours(image), expected)
    assert meta.inputs[0].bands == ("red", "green", "blue")


def test_what_the_user_knows_about_official_weights(cli_json, official) -> None:
    words = ("--classes", "ground,building", "--gsd", 0.3, "--licence", "CC0", "--float16")
    data = cli_json(
        *("checkpoint", "import", official, "--family", "rs_mamba", "-o", "w.safetensors", *words),
        *("--bands", "nir,red,green"),
    )
    assert [c["name"] for c in data["classes"]] == ["ground", "building"]
    assert (data["gsd"], data["licence"]) == (0.3, "CC0")
    assert data["inputs"][0]["bands"] == ["nir", "red", "green"]
    assert data["bytes"] < 2.5 * data["parameters"] + 100_000


def test_import_does_not_overwrite(refuses, cli, official) -> None:
    Path("w.safetensors").write_text("precious")
    words = ("checkpoint", "import", official, "--family", "rs_mamba", "-o", "w.safetensors")
    assert "--overwrite" in refuses(*words)
    assert Path("w.safetensors").read_text() == "precious"
    assert cli(*words, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--family", "resnet"), "rs_mamba"),
        (("--family", "rs_mamba", "--classes", "a,b,c"), "--classes"),
        (("--family", "rs_mamba", "--bands", "red"), "--bands"),
        (("--family", "rs_mamba", "--arg", "ssm_d_state=99"), "ssm_d_state"),
        (("--family", "rs_mamba", "--weights", "ema"), "no averaged weights"),
        (("--family", "rs_mamba", "-o", "no/folder/w.safetensors"), "no/folder"),
    ],
)
def test_imports_that_do_not_fit(refuses, official, words, named) -> None:
    assert named in refuses("checkpoint", "import", official, *words)
    assert list(Path().glob("*.safetensors")) == []


def tensors(case: str) -> dict[str, torch.Tensor]:
    """Official weights of Mamba-Diffusion, or of a part of it."""
    state = Case("mamba_diffusion", case).state_dict()
    return {key: torch.from_numpy(value) for key, value in state.items()}


def test_import_of_optical_and_radar_keeps_the_official_divisors(cli_json) -> None:
    torch.save({"state_dict": tensors("ddim_sampling_small")}, "latest.pth")
    words = ("checkpoint", "import", "latest.pth", "--family", "mamba_diffusion")
    data = cli_json(*words, "--bands", "r,g,b,nir,hh", "--arg", "timesteps=5")
    optical, sar = data["inputs"]
    assert (optical["name"], optical["bands"]) == ("optical", ["r", "g", "b", "nir"])
    assert (sar["name"], sar["bands"]) == ("sar", ["hh"])
    assert optical["transform"]["std"] == [171.04, 217.80, 305.58, 697.17]
    assert (sar["transform"]["mean"], sar["transform"]["std"]) == ([54.12], [2169.97])
    assert load_checkpoint("latest.safetensors")[0].sampler["steps"] == 5


def test_import_of_a_part_says_what_it_is_good_for(refuses) -> None:
    torch.save(tensors("dcf_module"), "block.pth")
    message = refuses("checkpoint", "import", "block.pth", "--family", "mamba_diffusion")
    assert "--encoder-weights" in message


def test_import_of_other_weights(refuses) -> None:
    torch.save({"layer.weight": torch.zeros(3)}, "other.pth")
    refuses("checkpoint", "import", "other.pth", "--family", "rs_mamba")


def test_import_of_a_part_of_a_network(refuses, official, monkeypatch) -> None:
    part = create_model("segman_nano").encoder
    monkeypatch.setattr("rsmamba_models.import_official", lambda *_, **__: part)
    words = ("checkpoint", "import", official, "--family", "segman")
    assert "part of a network (SegMANEncoder)" in refuses(*words)
    assert list(Path().glob("*.safetensors")) == []


def test_an_argument_without_a_value(cli, official) -> None:
    words = ("checkpoint", "import", official, "--family", "rs_mamba", "--arg", "eps")
    assert cli(*words).exit_code == 2


def test_json_is_all_that_is_on_stdout(cli, checkpoint_factory) -> None:
    json.loads(cli("checkpoint", "show", checkpoint_factory("change"), "--json").stdout)
