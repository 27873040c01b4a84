"""Losses: their values, what is ignored, and where gradients go."""

import math

import pytest
import torch
import torch.nn.functional as F

from rsmamba_cli.training.losses import SegmentationLoss
from rsmamba_cli.training.region_losses import SMOOTH

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


def small_case(outputs: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Few pixels, some of them ignored, in double precision for brute force."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, outputs, 3, 4, generator=generator)
    label = torch.randint(0, max(outputs, 2), (1, 3, 4), generator=generator)
    label[0, 0, :2] = 255
    return logits, label


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) with K at least 2."""
    if logits.shape[1] > 1:
        return logits.softmax(1)
    return torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)


def jaccard_loss(wrong: set[int], truth: list[int]) -> float:
    """1 - intersection / union of a prediction that errs in exactly the pixels ``wrong``."""
    guess = [t ^ (i in wrong) for i, t in enumerate(truth)]
    both = sum(a & b for a, b in zip(guess, truth, strict=True))
    either = sum(a | b for a, b in zip(guess, truth, strict=True))
    return 1 - both / either if either else 0.0


def lovasz_extension(errors: list[float], truth: list[int]) -> float:
    """The definition: a set function interpolated along the errors from large to small."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total, before = 0.0, 0.0
    for n, pixel in enumerate(order, start=1):
        now = jaccard_loss(set(order[:n]), truth)
        total += errors[pixel] * (now - before)
        before = now
    return total


@pytest.mark.parametrize("seed", range(4))
def test_lovasz_hinge_is_the_lovasz_extension_of_the_jaccard_loss(seed: int) -> None:
    logits, label = small_case(1, seed)
    known = (label != 255).flatten()
    truth = label.flatten()[known].tolist()
    scores = logits.flatten()[known].tolist()
    errors = [max(0.0, 1 - s * (2 * t - 1)) for s, t in zip(scores, truth, strict=True)]
    loss = SegmentationLoss(cross_entropy=0, dice=0, lovasz=1)(logits, label)["loss"]
    assert loss.item() == pytest.approx(lovasz_extension(errors, truth), abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_lovasz_softmax_is_the_mean_extension_over_the_classes_that_occur(seed: int) -> None:
    logits, label = small_case(4, seed)
    label[label == 3] = 2
    known = (label != 255).flatten()
    p = logits.softmax(1)[0].flatten(1)[:, known]
    want = []
    for k in (0, 1, 2):
        truth = (label.flatten()[known] == k).int().tolist()
        if any(truth):
            errors = [abs(t - q) for t, q in zip(truth, p[k].tolist(), strict=True)]
            want.append(lovasz_extension(errors, truth))
    loss = SegmentationLoss(cross_entropy=0, dice=0, lovasz=1)(logits, label)["loss"]
    assert loss.item() == pytest.approx(sum(want) / len(want), abs=1e-5)


def test_a_perfect_and_a_fully_wrong_map_cost_lovasz_zero_and_one() -> None:
    _, label = random_case(3)
    right = F.one_hot(label, 3).movedim(-1, 1).float() * 60 - 30
    loss = SegmentationLoss(cross_entropy=0, dice=0, lovasz=1)
    assert loss(right, label)["loss"].item() == pytest.approx(0, abs=1e-5)
    assert loss(right.roll(1, dims=1), label)["loss"].item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_focal_is_the_formula_pixel_by_pixel(outputs: int) -> None:
    logits, label = small_case(outputs)
    weights = (0.5, 2.0) if outputs == 1 else (0.5, 2.0, 1.0)
    p = probabilities(logits)
    total = mass = 0.0
    for row in range(3):
        for column in range(4):
            k = int(label[0, row, column])
            if k == 255:
                continue
            q = float(p[0, k, row, column])
            total += weights[k] * -((1 - q) ** 1.5) * math.log(q)
            mass += weights[k]
    settings = {"cross_entropy": 0, "dice": 0, "focal": 1, "focal_gamma": 1.5}
    loss = SegmentationLoss(**settings, class_weights=weights)
    assert loss(logits, label)["loss"].item() == pytest.approx(total / mass, rel=1e-5)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, label = random_case(4)
    focal = SegmentationLoss(cross_entropy=0, dice=0, focal=1, focal_gamma=0)(logits, label)
    assert torch.allclose(focal["loss"], F.cross_entropy(logits, label))


def test_tversky_with_equal_prices_is_dice_and_with_unequal_ones_is_not() -> None:
    logits, label = random_case(1)
    dice = SegmentationLoss(cross_entropy=0)(logits, label)["loss"]

    def tversky(alpha: float, beta: float) -> torch.Tensor:
        settings = {"tversky": 1, "tversky_alpha": alpha, "tversky_beta": beta}
        return SegmentationLoss(cross_entropy=0, dice=0, **settings)(logits, label)["loss"]

    assert torch.allclose(tversky(0.5, 0.5), dice, atol=1e-5)
    p, y = logits.sigmoid()[:, 0], label
    alarms, missed, hits = (p * (1 - y)).sum(), ((1 - p) * y).sum(), (p * y).sum()
    assert torch.allclose(tversky(0.2, 0.8), 1 - hits / (hits + 0.2 * alarms + 0.8 * missed))


@pytest.mark.parametrize("outputs", [1, 4])
def test_cross_entropy_over_all_pixels_is_diluted_by_the_ignored_ones(outputs: int) -> None:
    logits, label = random_case(outputs)
    label[:, :3] = 255
    known = SegmentationLoss(dice=0)(logits, label)["loss"]
    diluted = SegmentationLoss(dice=0, avg_non_ignore=False)(logits, label)["loss"]
    assert torch.allclose(diluted, known / 2)


def test_class_weights_are_those_of_the_weighted_mean() -> None:
    logits, label = random_case(4)
    label[:, 0] = 255
    weights = (1.0, 2.0, 0.5, 4.0)
    want = F.cross_entropy(logits, label, weight=torch.tensor(weights), ignore_index=255)
    assert torch.allclose(
        SegmentationLoss(dice=0, class_weights=weights)(logits, label)["loss"], want
    )


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("least", [1, 5, 1000])
def test_hard_examples_are_those_below_the_threshold_and_the_hardest(
    outputs: int, least: int
) -> None:
    logits, label = small_case(outputs)
    p = probabilities(logits)
    likelihoods = sorted(
        float(p[0, int(k), i // 4, i % 4]) for i, k in enumerate(label.flatten()) if k != 255
    )
    chosen = [q for n, q in enumerate(likelihoods) if q < 0.3 or n < least]
    want = sum(-math.log(q) for q in chosen) / len(chosen)
    loss = SegmentationLoss(dice=0, ohem_threshold=0.3, ohem_min_pixels=least)
    assert loss(logits, label)["loss"].item() == pytest.approx(want, rel=1e-5)


EVERY_TERM = {"dice": 1, "focal": 1, "lovasz": 1, "tversky": 1, "ohem_threshold": 0.7}


@pytest.mark.parametrize("outputs", [1, 3])
def test_no_term_sees_what_is_ignored(outputs: int) -> None:
    logits, label = random_case(outputs)
    loss = SegmentationLoss(**EVERY_TERM)
    before = loss(logits, label)["loss"]
    wide = torch.cat([logits, 50 * torch.ones_like(logits)], dim=3)
    padded = torch.cat([label, torch.full_like(label, 255)], dim=2)
    assert torch.allclose(loss(wide, padded)["loss"], before)
    empty = loss(logits, torch.full_like(label, 255))["loss"]
    empty.backward()
    assert torch.isfinite(empty)
    assert logits.grad is not None and not logits.grad.any()
