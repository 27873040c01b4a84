"""Neighbourhood attention against the numbers of NATTEN's CPU kernels, as SegMAN calls them."""

import pytest
import torch
from cases import Case

from rsmamba_models.ops.backends import ATTENTION
from rsmamba_models.ops.neighborhood import neighborhood_attention

CASE = Case("segman", "neighborhood_attention")
USABLE = ATTENTION.usable(torch.zeros(1))


@pytest.mark.parametrize("form", USABLE)
@pytest.mark.parametrize("name", CASE.manifest["config"]["subcases"])
def test_output(name, form):
    bias = CASE.state_dict().get(f"{name}.rpb")
    y = neighborhood_attention(
        *(CASE.inputs[f"{name}.{tensor}"] for tensor in "qkv"),
        CASE.manifest["config"]["subcases"][name]["window"],
        scale=1.0,  # the case's logits are the bare products
        bias=None if bias is None else torch.from_numpy(bias),
        form=form,
    )
    CASE.check(f"{name}.out", y)
