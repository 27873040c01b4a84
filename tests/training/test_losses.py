"""Losses: their values, what is ignored, and where gradients go."""

import pytest
import torch
import torch.nn.functional as F

from rsmamba_cli.training.losses import SMOOTH, SegmentationLoss

torch.set_num_threads(1)


def random_case(outputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, outputs, 6, 5, generator=generator, requires_grad=True)
    return logits, torch.randint(0, max(outputs, 2), (2, 6, 5), generator=generator)


def test_binary_is_the_official_dice_and_cross_entropy() -> None:
    logits, label = random_case(1)
    p, y = logits.sigmoid()[:, 0], label.float()
    dice = 1 - (2 * (p * y).sum() + SMOOTH) / (p.sum() + y.sum() + SMOOTH)
    parts = SegmentationLoss()(logits, label)
    assert torch.allclose(parts["dice"], dice)
    assert torch.allclose(parts["ce"], F.binary_cross_entropy_with_logits(logits[:, 0], y))
    assert torch.allclose(parts["loss"], parts["ce"] + parts["dice"])


def test_dice_is_one_ratio_over_the_batch() -> None:
    logits, label = random_case(1)
    each = [SegmentationLoss(0)(logits[i : i + 1], label[i : i + 1])["dice"] for i in range(2)]
    assert not torch.allclose(SegmentationLoss(0)(logits, label)["dice"], sum(each) / 2, atol=1e-7)


def test_many_classes_use_the_categorical_cross_entropy() -> None:
    logits, label = random_case(4)
    parts = SegmentationLoss(dice=0)(logits, label)
    assert torch.allclose(parts["loss"], F.cross_entropy(logits, label))


@pytest.mark.parametrize("outputs", [1, 3])
def test_ignored_pixels_change_nothing(outputs: int) -> None:
    logits, label = random_case(outputs)
    wide = torch.cat([logits, 50 * torch.ones_like(logits)], dim=3)
    padded = torch.cat([label, torch.full_like(label, 255)], dim=2)
    loss = SegmentationLoss(class_weights=(1.0, 3.0) if outputs == 1 else None)
    assert torch.allclose(loss(wide, padded)["loss"], loss(logits, label)["loss"])


@pytest.mark.parametrize("outputs", [1, 3])
def test_ignored_pixels_get_no_gradient(outputs: int) -> None:
    logits, label = random_case(outputs)
    label[:, :3] = 255
    SegmentationLoss()(logits, label)["loss"].backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :3].any() and logits.grad[:, :, 3:].any()


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_batch_without_labels_is_finite_and_moves_nothing(outputs: int) -> None:
    logits, label = random_case(outputs)
    parts = SegmentationLoss()(logits, torch.full_like(label, 255))
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    assert logits.grad is not None and not logits.grad.any()


def test_class_weights_of_one_change_nothing() -> None:
    for outputs, weights in ((1, (1.0, 1.0)), (3, (1.0, 1.0, 1.0))):
        logits, label = random_case(outputs)
        plain = SegmentationLoss()(logits, label)["loss"]
        assert torch.allclose(SegmentationLoss(class_weights=weights)(logits, label)["loss"], plain)


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits, label = random_case(1)
    assert SegmentationLoss()(logits.half(), label)["loss"].dtype == torch.float32


def test_right_answers_cost_less_than_wrong_ones() -> None:
    for outputs in (1, 4):
        _, label = random_case(outputs)
        right = F.one_hot(label, max(outputs, 2)).movedim(-1, 1).float() * 20 - 10
        right = right[:, 1:] if outputs == 1 else right
        assert SegmentationLoss()(right, label)["loss"] < 0.01
        assert SegmentationLoss()(-right, label)["loss"] > 1
