"""Parameter groups: decay, rates, layers, freezing."""

import pytest
import torch
from torch import nn

from rsmamba_cli.errors import InputError
from rsmamba_cli.training.checkpointing import checkpoint_blocks
from rsmamba_cli.training.optimiser import (
    encoder_depths,
    freeze,
    layers_of,
    make_optimiser,
    parameter_groups,
)
from rsmamba_cli.training.recipe import OptimiserPart
from rsmamba_models import create_model

SMALLEST = {"dims": [8, 16, 32, 64], "depths": [1, 2, 1, 1], "ssm_d_state": 2}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("rsm_ss_nano", **SMALLEST)


def found(model: nn.Module, **tuning: object) -> dict[str, tuple[float, float]]:
    """Name -> weight decay and factor of the rate."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, OptimiserPart(weight_decay=0.1, **tuning))
    return {
        names[id(p)]: (group["weight_decay"], group["lr_factor"])
        for group in groups
        for p in group["params"]
    }


def test_by_default_norms_biases_and_scans_are_spared(model: nn.Module) -> None:
    spared = {name for name, (decay, _) in found(model).items() if not decay}
    want = {
        name
        for name, p in model.named_parameters()
        if p.ndim < 2 or name.endswith((".A_log", ".D", ".dt_bias"))
    }
    assert spared == want and len(found(model)) == len(list(model.parameters()))


def test_patterns_choose_what_is_spared(model: nn.Module) -> None:
    assert all(decay for decay, _ in found(model, no_decay=()).values())
    chosen = {
        n for n, (decay, _) in found(model, no_decay=("encoder.*norm*",)).items() if not decay
    }
    assert chosen == {
        n for n, _ in model.named_parameters() if n.startswith("encoder.") and "norm" in n
    }


def test_rates_follow_the_first_pattern_that_matches(model: nn.Module) -> None:
    factors = found(model, lr_factors={"head.out": 2.0, "head": 10.0})
    assert factors["head.out.weight"][1] == 2
    assert factors["head.upsample_x4.0.conv.weight"][1] == 10
    assert factors["decoder.blocks.0.conv.weight"][1] == 1


def test_a_rate_for_nothing_is_refused_with_the_model_s_parts(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"decode_head matches no .*encoder, decoder, head"):
        found(model, lr_factors={"decode_head": 10.0})


def test_layers_are_the_encoder_s_blocks_from_bottom_to_top(model: nn.Module) -> None:
    names = [name for name, _ in layers_of(model.encoder)]
    assert names == [
        *("stages.0.0", "stages.1.0", "stages.1.1", "stages.1.2"),
        *("stages.2.0", "stages.2.1", "stages.3.0", "stages.3.1"),
    ]
    depths = encoder_depths(model)
    assert depths["encoder.stages.3.1.mlp.fc1.weight"] == 1
    assert depths["encoder.stages.0.0.mlp.fc1.weight"] == 8
    assert min(d for n, d in depths.items() if "patch_embed" in n) == 9


def test_layer_decay_slows_the_lower_layers(model: nn.Module) -> None:
    factors = found(model, layer_decay=0.5, lr_factors={"encoder.stages.3.1": 3.0})
    assert factors["encoder.stages.3.1.mlp.fc1.weight"][1] == 3 * 0.5
    assert factors["encoder.stages.3.0.conv.weight"][1] == 0.25
    assert factors["head.out.weight"][1] == 1


def test_what_is_frozen_does_not_learn_nor_count_batches(model: nn.Module) -> None:
    frozen = freeze(model, ("encoder", "decoder.blocks.0.*"))
    assert model.encoder in frozen and model.decoder not in frozen
    assert model.decoder.blocks[0] in frozen
    learning = found(model)
    assert learning and not any(n.startswith(("encoder", "decoder.blocks.0")) for n in learning)


def test_freezing_all_or_nothing_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="backbone matches no parameter"):
        freeze(model, ("backbone",))
    freeze(model, ("*",))
    with pytest.raises(InputError, match="nothing to learn"):
        found(model)


def test_sgd_moves_along_the_momentum(model: nn.Module) -> None:
    tuning = OptimiserPart(kind="sgd", lr=0.5, momentum=0.9, weight_decay=0)
    optimiser = make_optimiser(model, tuning)
    weight = model.head.out.weight
    start = weight.detach().clone()
    for _ in range(2):
        optimiser.zero_grad()
        weight.grad = torch.ones_like(weight)
        optimiser.step()
    assert torch.allclose(start - weight.detach(), torch.full_like(start, 0.5 * (1 + 1.9)))


def test_checkpointed_blocks_give_the_same_gradients_and_statistics() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        blocks = [
            nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.3))
            for _ in range(3)
        ]
        return nn.Sequential(*blocks)

    x = torch.randn(2, 3, 8, 8)
    plain, saving = make(), make()
    checkpoint_blocks(list(saving))
    for net in (plain, saving):
        torch.manual_seed(1)
        net(x).square().sum().backward()
    pairs = zip(plain.parameters(), saving.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.state_dict().values(), saving.state_dict().values(), strict=True)
    )
    assert plain.eval()(x).equal(saving.eval()(x))


def test_checkpointed_blocks_compute_their_insides_again() -> None:
    calls = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return self.layer(x).relu()

    block = Counting()
    checkpoint_blocks([block])
    block(torch.ones(1, 2)).sum().backward()
    assert len(calls) == 2
