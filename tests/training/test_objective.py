"""What a step minimises, for models with and without further outputs."""

import torch
from torch import Tensor, nn

from rsmamba_cli.training.data import Batch
from rsmamba_cli.training.losses import SegmentationLoss
from rsmamba_cli.training.objective import Objective, noise_generator

LOSS = SegmentationLoss(dice=0)


class Stub(nn.Module):
    """A model with one weight that returns what it is told."""

    def __init__(self, auxiliary: bool = False, own: bool = False, target: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.auxiliary, self.own = auxiliary, own
        self.needs_target = target
        self.given: dict[str, object] = {}

    def training_forward(self, x: Tensor, **given: object) -> dict:
        self.given = given
        out: dict = {"logits": x * self.weight}
        if self.auxiliary:
            out["auxiliary"] = -x * self.weight
        if self.own:
            out["loss_terms"] = {"prior": self.weight**2}
        return out


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 4, 4, generator=generator)
    return Batch((image,), torch.randint(0, 3, (2, 4, 4), generator=generator), ("a", "b"))


def run(model: nn.Module, auxiliary: float = 0.4) -> dict[str, Tensor]:
    return Objective(LOSS, auxiliary)(model, a_batch(), torch.Generator())


def test_the_auxiliary_head_has_the_same_loss_with_its_weight() -> None:
    batch = a_batch()
    main, aside = (LOSS(sign * batch.images[0], batch.label)["loss"] for sign in (1, -1))
    terms = run(Stub(auxiliary=True))
    assert torch.allclose(terms["loss"], main + 0.4 * aside)
    assert torch.allclose(terms["aux"], aside)
    assert "aux" not in run(Stub(auxiliary=True), auxiliary=0)
    assert torch.allclose(run(Stub())["loss"], main)


def test_a_model_s_own_terms_are_added_and_learnt() -> None:
    plain, model = Stub(), Stub(own=True)
    for each in (plain, model):
        run(each)["loss"].backward()
    assert torch.allclose(model.weight.grad, plain.weight.grad + 2)
    assert run(model)["prior"] == 1


def test_only_models_that_ask_for_them_get_labels_and_a_generator() -> None:
    model = Stub(target=True)
    run(model)
    assert torch.equal(model.given["target"], a_batch().label)
    assert isinstance(model.given["generator"], torch.Generator)
    plain = Stub()
    run(plain)
    assert plain.given == {}


def test_the_model_s_noise_depends_on_seed_batch_and_process_only() -> None:
    def draw(*key: int) -> list[float]:
        return torch.rand(3, generator=noise_generator(*key, torch.device("cpu"))).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({tuple(draw(*key)) for key in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))}) == 4
