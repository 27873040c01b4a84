"""Encoders and decoders put together by name, for segmentation and change."""

import pytest
import torch

from rsmamba_models import (
    ArgumentsError,
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    Transform,
    UnknownModelError,
    create_model,
    list_encoders,
    load_checkpoint,
    save_checkpoint,
)

NAME = "rs_mamba_nano_unet"


def test_any_encoder_goes_with_any_decoder_by_name():
    model = create_model(NAME, in_chans=4, num_classes=5).eval()
    assert model(torch.randn(2, 4, 37, 70)).shape == (2, 5, 37, 70)


def test_an_unknown_half_is_no_architecture():
    with pytest.raises(UnknownModelError):
        create_model("rs_mamba_nano_zebra")


def test_encoders_are_listed():
    assert {f"rs_mamba_{s}" for s in ("nano", "tiny", "small", "base")} <= set(list_encoders())


def test_an_encoder_says_what_its_maps_are():
    encoder = create_model(NAME).encoder
    maps = encoder(torch.randn(1, 3, 64, 96))
    assert tuple(m.shape[1] for m in maps) == encoder.channels
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in encoder.strides]


def test_arguments_of_the_halves_are_passed_on():
    model = create_model(NAME, encoder_arguments={"depths": [1, 1, 1, 1]})
    assert [len(s) for s in model.encoder.stages] == [1, 2, 2, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_arguments": {"zebra": 1}},
        {"decoder_arguments": {"zebra": 1}},
        {"num_classes": 0},
        {"task": "multitude"},
    ],
)
def test_arguments_that_make_no_model_are_refused(wrong):
    with pytest.raises(ArgumentsError):
        create_model(NAME, **wrong)


def test_an_auxiliary_head_is_for_training_only():
    model = create_model(NAME, num_classes=3, auxiliary={"level": 2, "channels": 16})
    outputs = model.training_forward(torch.randn(2, 3, 40, 33))
    assert {k: v.shape for k, v in outputs.items()} == {
        "logits": (2, 3, 40, 33),
        "auxiliary": (2, 3, 40, 33),
    }


@pytest.mark.parametrize("fusion", ["concat", "difference"])
def test_a_segmentation_model_becomes_a_change_detector(fusion):
    model = create_model(NAME, task="change", fusion=fusion).eval()
    t1, t2 = torch.randn(2, 1, 3, 40, 33)
    assert model.task == "change"
    assert model(t1, t2).shape == (1, 1, 40, 33)


def test_difference_does_not_see_the_order_of_the_dates():
    model = create_model(NAME, task="change", fusion="difference").eval()
    t1, t2 = torch.randn(2, 1, 3, 32, 32)
    torch.testing.assert_close(model(t1, t2), model(t2, t1))


def test_concatenation_sees_the_order_of_the_dates():
    model = create_model(NAME, task="change", fusion="concat").eval()
    t1, t2 = torch.randn(2, 1, 3, 32, 32)
    assert not torch.allclose(model(t1, t2), model(t2, t1))


def test_rs_mamba_becomes_its_own_change_detector():
    torch.manual_seed(0)
    ours = create_model("rsm_ss_nano", task="change", drop_path_rate=0.0)
    assert type(ours) is type(create_model("rsm_cd_nano"))


def test_dates_of_different_size_are_refused():
    model = create_model(NAME, task="change")
    with pytest.raises(ArgumentsError, match="differ in shape"):
        model(torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 40))


def test_a_checkpoint_remembers_the_task(tmp_path):
    model = create_model(NAME, task="change", fusion="difference").eval()
    transform = Transform.unit8(3)
    meta = CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task="change",
        inputs=tuple(
            InputSpec(name=n, bands=("r", "g", "b"), transform=transform) for n in ("t1", "t2")
        ),
        classes=(
            ClassInfo(value=0, name="same", color=(0, 0, 0)),
            ClassInfo(value=1, name="changed", color=(255, 0, 0)),
        ),
        output="sigmoid",
    )
    save_checkpoint(tmp_path / "m.safetensors", model, meta)
    again, _ = load_checkpoint(tmp_path / "m.safetensors")
    t1, t2 = torch.randn(2, 1, 3, 32, 32)
    torch.testing.assert_close(again(t1, t2), model(t1, t2), rtol=0, atol=0)


def test_only_maps_that_a_head_reads_are_fused():
    model = create_model(
        "rs_mamba_nano_deeplabv3", task="change", auxiliary={"level": 1, "channels": 8}
    )
    assert set(model.fuse) == {"1", "3"}
    t1, t2 = torch.randn(2, 2, 3, 40, 33)
    sum(o.sum() for o in model.training_forward(t1, t2).values()).backward()
    assert all(p.grad is not None for p in model.fuse.parameters())
