"""The mLSTM cell against the numbers of Seg-LSTM's official code."""

import pytest
import torch
from cases import Case

from rsmamba_models.ops.mlstm import mlstm

FORMS = [("parallel", 128), ("recurrent", 128), ("chunkwise", 128), ("chunkwise", 7)]


def official():
    """The case, its five inputs as they enter the op, and the gradient of its output."""
    case = Case("seg_lstm", "mlstm_op")
    config, given = case.manifest["config"], case.inputs
    i_gate = given["igate"][..., 0] * config["igate_scale"] + config["igate_shift"]
    f_gate = given["fgate"][..., 0] * config["fgate_scale"] + config["fgate_shift"]
    inputs = [t.requires_grad_() for t in (given["q"], given["k"], given["v"], i_gate, f_gate)]
    return case, inputs, given["grad_out"]


@pytest.mark.parametrize(("form", "chunk"), FORMS)
def test_output(form, chunk):
    case, inputs, _ = official()
    h = mlstm(*inputs, form=form, chunk=chunk, eps=case.manifest["config"]["eps"])
    case.check("h", h)


def test_recurrent_form_gives_the_official_recurrence():
    case, inputs, _ = official()
    case.check("h_recurrent", mlstm(*inputs, form="recurrent"))


@pytest.mark.parametrize(("form", "chunk"), FORMS)
def test_gradients(form, chunk):
    case, inputs, grad_out = official()
    h = mlstm(*inputs, form=form, chunk=chunk, eps=case.manifest["config"]["eps"])
    grads = torch.autograd.grad(h, inputs, grad_out)
    for name, grad in zip(("q", "k", "v", "igate", "fgate"), grads, strict=True):
        gate = name.endswith("gate")
        case.check(f"grad_{name}", grad[..., None] if gate else grad)
