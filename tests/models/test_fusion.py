"""Any segmentation network takes two modalities."""

import pytest
import torch

from rsmamba_models import (
    ArgumentsError,
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    Transform,
    create_model,
    load_checkpoint,
    save_checkpoint,
)

SMALL = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "ssm_d_state": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("rsm_ss_nano", task="multimodal", in_chans=(4, 1), num_classes=3, **SMALL)


@pytest.mark.parametrize("name", ["rsm_ss_nano", "rs_mamba_nano_unet"])
def test_images_are_stacked(name):
    model = create_model(name, task="multimodal", in_chans=(2, 3)).eval()
    optical, sar = torch.randn(2, 2, 33, 47), torch.randn(2, 3, 33, 47)
    logits = model(optical, sar)
    assert logits.shape == (2, 1, 33, 47)
    torch.testing.assert_close(logits, model.network(torch.cat([optical, sar], dim=1)))
    assert set(model.training_forward(optical, sar)) >= {"logits"}


def test_both_images_are_learnt_from(model):
    images = [torch.randn(1, n, 32, 32, requires_grad=True) for n in (4, 1)]
    model.training_forward(*images)["logits"].square().sum().backward()
    assert all(image.grad.abs().sum() > 0 for image in images)


def test_the_encoder_is_the_network_s(model):
    assert model.encoder is model.network.encoder
    assert not any(name.startswith("encoder.") for name in model.state_dict())


@pytest.mark.parametrize("wrong", [5, (5,), (4, 0), (4, 1.0), (1, 2, 3)])
def test_bands_that_are_no_pair_are_refused(wrong):
    with pytest.raises(ArgumentsError, match="in_chans"):
        create_model("rsm_ss_nano", task="multimodal", in_chans=wrong)


@pytest.mark.parametrize("shapes", [((1, 4, 32, 32), (1, 2, 32, 32)), ((1, 4, 32, 32),) * 2])
def test_images_of_other_bands_are_refused(model, shapes):
    with pytest.raises(ArgumentsError, match="bands"):
        model(*[torch.zeros(shape) for shape in shapes])


def test_images_of_two_sizes_are_refused(model):
    with pytest.raises(ArgumentsError, match="differ in shape"):
        model(torch.zeros(1, 4, 32, 32), torch.zeros(1, 1, 32, 31))


def test_change_detectors_do_not_take_modalities():
    with pytest.raises(ArgumentsError, match="rsm_cd_nano is for change, not for multimodal"):
        create_model("rsm_cd_nano", task="multimodal", in_chans=(3, 1))


def meta_of(model, bands=(4, 1)):
    def transform(n):
        return Transform(offset=(0,) * n, scale=(1,) * n, mean=(0,) * n, std=(1,) * n)

    return CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task="multimodal",
        inputs=tuple(
            InputSpec(
                name=name, bands=tuple(f"{name}{i}" for i in range(n)), transform=transform(n)
            )
            for name, n in zip(("optical", "sar"), bands, strict=True)
        ),
        classes=tuple(ClassInfo(value=i, name=f"c{i}", color=(i, 0, 0)) for i in range(3)),
        output="softmax",
        size_multiple=model.size_multiple,
    )


def test_a_checkpoint_gives_the_same_answers(model, tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", model, meta_of(model))
    loaded, meta = load_checkpoint(tmp_path / "m.safetensors")
    assert (meta.task, loaded.in_chans) == ("multimodal", (4, 1))
    images = torch.randn(1, 4, 40, 50), torch.randn(1, 1, 40, 50)
    torch.testing.assert_close(loaded(*images), model.eval()(*images))


def test_metadata_of_another_split_of_bands_is_refused(model, tmp_path):
    with pytest.raises(ArgumentsError, match="'optical' has 3 bands, the model takes 4"):
        save_checkpoint(tmp_path / "m.safetensors", model, meta_of(model, (3, 2)))
