"""Windows to probabilities: fixed batches, exact augmentation, honest refusals."""

import numpy as np
import pytest
import torch
from inference_models import Constant, Pixelwise, meta_of, pixelwise_logits, softmax
from torch import nn

from rsmamba_cli.errors import CheckpointError, DeviceError
from rsmamba_cli.inference.device import (
    precision_warning,
    resolve_device,
    resolve_precision,
    scan_backend,
)
from rsmamba_cli.inference.predictor import Predictor


def windows(count=5, bands=3, height=12, width=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, bands, height, width)).astype(np.float32)


class Sided(nn.Module):
    """A model that is not symmetric: it looks up and to the left."""

    def forward(self, x):
        up = torch.roll(x[:, :1], 1, -2)
        left = torch.roll(x[:, :1], 1, -1)
        return up + 2 * left + 3 * x[:, 1:2]


def test_probabilities_are_the_softmax_of_the_logits():
    model = Pixelwise(3, 4)
    x = windows()
    found = Predictor(model, meta_of(3, 4))([x])
    for window, answer in zip(x, found, strict=True):
        np.testing.assert_allclose(answer, softmax(pixelwise_logits(model, window)), atol=1e-5)


def test_binary_models_answer_for_both_classes():
    found = Predictor(Constant(2.0), meta_of(3, 2))([windows()])
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-2)), rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_temperature_softens():
    found = Predictor(Constant(2.0), meta_of(3, 2, temperature=4.0))([windows()])
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-0.5)), rtol=1e-6)


def test_every_batch_has_the_same_shape():
    shapes = []

    class Spy(Constant):
        def forward(self, x):
            shapes.append(tuple(x.shape))
            return super().forward(x)

    found = Predictor(Spy(1.0), meta_of(3, 2), batch_size=4)([windows(9)])
    assert shapes == [(4, 3, 12, 20)] * 3
    assert len(found) == 9


@pytest.mark.parametrize("tta", ["flip", "d4"])
def test_augmentation_of_a_symmetric_model_changes_nothing(tta):
    x = windows()
    plain = Predictor(Pixelwise(3, 4), meta_of(3, 4))([x])
    np.testing.assert_allclose(
        Predictor(Pixelwise(3, 4), meta_of(3, 4), tta=tta)([x]), plain, atol=1e-6
    )


def test_augmentation_makes_any_model_symmetric():
    predictor = Predictor(Sided(), meta_of(3, 2), tta="d4")
    x = windows(height=16, width=16)
    plain = predictor([x])
    for turned, back in (
        (x[..., ::-1], lambda y: y[..., ::-1]),
        (x.transpose(0, 1, 3, 2), lambda y: y.transpose(0, 1, 3, 2)),
        (np.rot90(x, 1, (2, 3)), lambda y: np.rot90(y, -1, (2, 3))),
    ):
        np.testing.assert_allclose(
            back(predictor([np.ascontiguousarray(turned)])), plain, atol=1e-6
        )


@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("flip", 4), ("d4", 8)])
def test_augmentation_costs_what_it_says(tta, views):
    model = Pixelwise(3, 1)
    Predictor(model, meta_of(3, 2), tta=tta)([windows(1)])
    assert model.windows == views


def test_two_dates_are_two_arguments():
    class Difference(nn.Module):
        def forward(self, a, b):
            return (b - a)[:, :1]

    first, second = windows(seed=1), windows(seed=2)
    found = Predictor(Difference(), meta_of(3, 2, task="change"))([first, second])
    expected = 1 / (1 + np.exp(-(second - first)[:, 0].astype(np.float64)))
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-6)


def test_bfloat16_stays_close_and_answers_in_float32():
    x = windows()
    plain = Predictor(Pixelwise(3, 4), meta_of(3, 4))([x])
    found = Predictor(Pixelwise(3, 4), meta_of(3, 4), precision="bf16")([x])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain, atol=0.05)


def test_logits_that_do_not_fit_the_metadata_are_refused():
    with pytest.raises(CheckpointError, match="3 channels where its metadata lists 4"):
        Predictor(Constant(0.0, 0.0, 0.0), meta_of(3, 4))([windows()])


def test_running_out_of_memory_says_what_to_do():
    class Greedy(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceError, match="--tile"):
        Predictor(Greedy(), meta_of(3, 2), batch_size=4)([windows()])


class Small(Pixelwise):
    """Runs out of memory with more than so many windows at once."""

    def __init__(self, most):
        super().__init__(3, 4)
        self.most = most
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize(("batch", "most"), [(8, 2), (5, 3), (7, 1), (4, 4)])
def test_out_of_memory_goes_on_with_fewer_windows_at_once(batch, most):
    x = windows(11)
    told = []
    model = Small(most)
    predictor = Predictor(model, meta_of(3, 4), batch_size=batch, on_event=told.append)
    plain = Predictor(Pixelwise(3, 4), meta_of(3, 4))([x])
    found = np.concatenate([predictor([x[:batch]]), predictor([x[batch:]])])
    np.testing.assert_allclose(found, plain, rtol=1e-6)
    fitting = [size for size in model.sizes if size <= most]
    assert len(set(fitting)) == 1
    # The size that did not fit is tried once, and said once.
    assert len(told) == len(model.sizes) - len(fitting)
    assert all("out of memory" in warned.message for warned in told)


# devices


def test_auto_finds_a_device():
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:0,1", "cuda:x", "tpu", ""])
def test_devices_that_are_none_are_refused(name):
    with pytest.raises(DeviceError):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said_so():
    with pytest.raises(DeviceError, match="no CUDA device is usable"):
        resolve_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_out_of_range_is_refused():
    with pytest.raises(DeviceError, match="counted from 0"):
        resolve_device("cuda:99")


def test_auto_precision_is_fp32():
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("has", "precision", "warns"),
    [
        (False, "bf16", True),
        (True, "bf16", False),
        (False, "fp32", False),
    ],
)
def test_bf16_on_a_processor_without_it_is_said_to_be_slow(
    monkeypatch: pytest.MonkeyPatch, has: bool, precision: str, warns: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    message = precision_warning(precision, torch.device("cpu"))
    assert ("slower than fp32" in (message or "")) == warns


def test_half_precision_on_a_cpu_is_refused():
    with pytest.raises(DeviceError, match="fp32 or bf16"):
        resolve_precision("fp16", torch.device("cpu"))


def test_the_scan_has_a_back_end():
    assert scan_backend(torch.device("cpu")) in ("native", "torch")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu():
    x = windows()
    plain = Predictor(Pixelwise(3, 4), meta_of(3, 4))([x])
    found = Predictor(Pixelwise(3, 4), meta_of(3, 4), device="cuda")([x])
    np.testing.assert_allclose(found, plain, atol=1e-3)
