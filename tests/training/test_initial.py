"""Starting from other weights: what is copied, what is adapted, what is refused."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rsmamba_cli.errors import CheckpointError
from rsmamba_cli.training.initial import adopt_encoder, adopt_weights
from rsmamba_models import CheckpointMeta, ClassInfo, InputSpec, Transform, create_model
from rsmamba_models import save_checkpoint as save

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from cases import Case

NANO = {
    "encoder_arguments": {
        "dims": (8, 16, 24, 32),
        "depths": (1, 1, 1, 1),
        "heads": (1, 1, 1, 1),
    },
    "decoder_arguments": {"channels": 16, "feat_proj_dim": 16},
}
AUXILIARY = {"level": 2, "channels": 8}


def make(seed: int = 0, name: str = "segman_nano", **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, **{**NANO, **changes})


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A segmentation checkpoint of seed 1."""
    model = make(1)
    meta = CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task="segmentation",
        inputs=(InputSpec(name="image", bands=("r", "g", "b"), transform=Transform.imagenet8()),),
        classes=tuple(ClassInfo(value=i, name=str(i), color=(0, 0, 0)) for i in range(2)),
        output="sigmoid",
    )
    path = tmp_path / "model.safetensors"
    save(path, model, meta)
    return path


def test_other_classes_keep_all_but_the_last_layers_of_both_heads() -> None:
    source, model = make(1, auxiliary=AUXILIARY), make(2, num_classes=5, auxiliary=AUXILIARY)
    notes = adopt_weights(model, source, "x")
    assert same(model.encoder, source.encoder)
    assert len(notes) == 4 and all("1 outputs, this model 5" in line for line in notes)
    old, new = source.state_dict(), model.state_dict()
    changed = {name for name in new if new[name].shape != old[name].shape}
    assert changed == {
        f"{head}.classifier.{kind}"
        for head in ("decoder", "auxiliary")
        for kind in ("weight", "bias")
    }


def test_a_head_that_the_source_has_not_starts_anew_and_one_too_many_is_left_out() -> None:
    plain, aided = make(1), make(2, auxiliary=AUXILIARY)
    assert adopt_weights(aided, plain, "x") == ["x has no auxiliary: it starts anew"]
    assert same(aided.decoder, plain.decoder)
    assert adopt_weights(make(3), aided, "x") == ["x has a auxiliary, which is left out"]


def test_a_change_detector_starts_from_a_segmenter() -> None:
    source, model = make(1), make(2, task="change", fusion="concat")
    assert adopt_weights(model, source, "x") == ["x has no fuse: it starts anew"]
    assert same(model.encoder, source.encoder) and same(model.decoder, source.decoder)


def test_another_decoder_is_refused_with_the_way_out() -> None:
    other = make(1, decoder="upernet", decoder_arguments={"channels": 8})
    with pytest.raises(CheckpointError, match=r"another architecture.*--encoder-weights"):
        adopt_weights(make(2), other, "x")


def test_more_bands_start_at_the_mean() -> None:
    source, model = make(1), make(2, in_chans=5)
    (note,) = adopt_weights(model, source, "x")
    assert "takes 3 bands, this model 5" in note
    old, new = source.encoder.stem[0].weight, model.encoder.stem[0].weight
    assert torch.equal(new[:, :3], old)
    assert torch.allclose(new[:, 3:], old.mean(dim=1, keepdim=True).expand(-1, 2, -1, -1))


def test_two_modalities_start_from_a_model_for_one_image() -> None:
    source, model = make(1), make(2, task="multimodal", in_chans=(3, 2))
    (note,) = adopt_weights(model, source, "x")
    assert "takes 3 bands, this model 5" in note
    new = model.encoder.stem[0].weight
    assert torch.equal(new[:, :3], source.encoder.stem[0].weight)
    assert same(model.network.decoder, source.decoder)


def test_the_encoder_of_two_modalities_comes_from_a_model_for_one_image(checkpoint: Path) -> None:
    model = make(2, task="multimodal", in_chans=(3, 2))
    (note,) = adopt_encoder(model, checkpoint, partial=False)
    assert "takes 3 bands, this model 5" in note
    assert torch.equal(model.encoder.stem[0].weight[:, :3], make(1).encoder.stem[0].weight)


def test_an_encoder_comes_from_a_checkpoint_with_any_decoder(checkpoint: Path) -> None:
    model = make(2, decoder="upernet", decoder_arguments={"channels": 8}, num_classes=4)
    assert adopt_encoder(model, checkpoint, partial=False) == []
    assert same(model.encoder, make(1).encoder)


def official_encoder() -> dict[str, torch.Tensor]:
    """What a file of SegMAN-T's ImageNet training holds, classifier aside."""
    arrays = Case("segman", "encoder_tiny_224").state_dict()
    return {name: torch.as_tensor(array) for name, array in arrays.items()}


def test_an_official_encoder_is_taken_averaged_weights_first(tmp_path: Path) -> None:
    official = official_encoder()
    raw = {name: torch.zeros_like(tensor) for name, tensor in official.items()}
    torch.save({"state_dict": raw, "state_dict_ema": official}, tmp_path / "best.pth.tar")
    model = create_model("segman_tiny", in_chans=4)
    notes = adopt_encoder(model, tmp_path / "best.pth.tar", partial=False)
    assert len(notes) == 1 and "takes 3 bands, this model 4" in notes[0]
    stem = official["patch_embed.0.weight"]
    assert torch.equal(model.encoder.stem[0].weight[:, :3], stem)


def test_an_official_file_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    official = official_encoder()
    del official["layers.0.blocks.0.norm1.weight"]
    torch.save(official, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"broken\.pth holds no encoder of segman"):
        adopt_encoder(create_model("segman_tiny"), tmp_path / "broken.pth", partial=False)


def test_an_encoder_of_another_size_is_refused_unless_told(checkpoint: Path) -> None:
    deeper = {"encoder_arguments": {**NANO["encoder_arguments"], "depths": (1, 1, 2, 1)}}
    with pytest.raises(CheckpointError, match=r"does not fit.*start anew.*weights-partial"):
        adopt_encoder(make(2, **deeper), checkpoint, partial=False)
    model = make(2, **deeper)
    (note,) = adopt_encoder(model, checkpoint, partial=True)
    assert "stages.2.blocks.1" in note
    assert same(model.encoder.stages[0], make(1).encoder.stages[0])


def test_nothing_that_fits_is_refused_even_then(checkpoint: Path) -> None:
    model = create_model("rsm_ss_nano", dims=(8, 16, 32, 64), depths=(1, 1, 1, 1))
    with pytest.raises(CheckpointError, match=r"0 of \d+ tensors"):
        adopt_encoder(model, checkpoint, partial=True)
