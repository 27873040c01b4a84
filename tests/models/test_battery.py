"""What every registered model has to do; the smallest of each family really does it."""

import inspect
import json

import pytest
import torch

from rsmamba_models import (
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    Transform,
    create_model,
    list_models,
    load_checkpoint,
    model_info,
    save_checkpoint,
)
from rsmamba_models.registry import get_entry

CLASSES = 3


def bands(task):
    return (3, 2) if task == "multimodal" else 3


def on_meta(name, task):
    with torch.device("meta"):
        return create_model(name, bands(task), CLASSES, task=task)


def size(name):
    return sum(p.numel() for p in on_meta(name, get_entry(name).task).parameters())


def smallest():
    """For every family and task the smallest model: (name, task)."""
    found = {}
    for name in sorted(list_models(), key=size):
        for task in get_entry(name).tasks:
            found.setdefault((get_entry(name).family, task), name)
    return [(name, task) for (_, task), name in found.items()]


SMALLEST = smallest()
OWN = [(name, task) for name, task in SMALLEST if get_entry(name).task == task]
every = pytest.mark.parametrize(("name", "task"), SMALLEST, ids=["-".join(s) for s in SMALLEST])
own = pytest.mark.parametrize(("name", "task"), OWN, ids=["-".join(s) for s in OWN])


def build(name, task, num_classes=CLASSES):
    torch.manual_seed(0)
    return create_model(name, bands(task), num_classes, task=task)


def images(task, height, width, batch=2):
    """What a model of that task is called with."""
    numbers = {"change": (3, 3), "multimodal": (3, 2)}.get(task, (3,))
    generator = torch.Generator().manual_seed(height * width)
    return tuple(torch.randn(batch, n, height, width, generator=generator) for n in numbers)


def predict(model, inputs, **options):
    with torch.inference_mode():
        return model(*inputs, **options)


def train(model, inputs):
    """What a training step computes, from a fixed seed."""
    torch.manual_seed(1)
    options = {}
    if getattr(model, "needs_target", False):
        options["target"] = (inputs[0][:, 0] * CLASSES).long() % CLASSES
    return model.training_forward(*inputs, **options)


def few_steps(model):
    """Options that keep a sampler's graph short."""
    return {"steps": 2} if "steps" in inspect.signature(model.forward).parameters else {}


class TestEveryName:
    @pytest.mark.parametrize("name", list_models())
    def test_arguments_are_json_and_make_the_model_again(self, name):
        task = get_entry(name).task
        model = on_meta(name, task)
        assert (model.architecture, model.task) == (name, task)
        with torch.device("meta"):
            again = create_model(name, **json.loads(json.dumps(model.arguments)))
        shapes = {k: v.shape for k, v in again.state_dict().items()}
        assert shapes == {k: v.shape for k, v in model.state_dict().items()}

    @pytest.mark.parametrize("name", list_models())
    def test_it_says_where_it_is_from(self, name):
        info = model_info(name)
        assert info["paper"]
        assert info["parameters"] > 0


@every
@pytest.mark.parametrize("side", [(1, 1), (33, 47), (64, 96)], ids=str)
def test_any_size(name, task, side):
    logits = predict(build(name, task).eval(), images(task, *side))
    assert logits.shape == (2, CLASSES, *side)
    assert logits.isfinite().all()


@every
def test_one_class(name, task):
    logits = predict(build(name, task, num_classes=1).eval(), images(task, 32, 32))
    assert logits.shape == (2, 1, 32, 32)


@every
def test_every_parameter_learns(name, task):
    model = build(name, task).train()
    outputs = train(model, images(task, 40, 33))
    assert all(o.shape == (2, CLASSES, 40, 33) for o in outputs.values())
    sum(
        (o * torch.linspace(-1, 1, o.numel()).view_as(o)).sum() for o in outputs.values()
    ).backward()
    assert not without_gradient(model)


def without_gradient(model):
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [n for n, p in learning if p.grad is None or not p.grad.isfinite().all()]


@every
def test_the_same_call_gives_the_same(name, task):
    model, inputs = build(name, task).eval(), images(task, 33, 47)
    assert torch.equal(predict(model, inputs), predict(model, inputs))


@every
def test_the_same_seed_trains_the_same(name, task):
    model, inputs = build(name, task).train(), images(task, 32, 32)
    with torch.no_grad():
        first, second = train(model, inputs), train(model, inputs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@every
def test_training_leaves_no_trace_on_evaluation(name, task):
    """Dropping, statistics of batches and auxiliary heads belong to training alone."""
    model, inputs = build(name, task), images(task, 32, 32)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = predict(model.eval(), inputs)
    with torch.no_grad():
        train(model.train(), inputs)
    model.load_state_dict(state)
    assert torch.equal(predict(model.eval(), inputs), before)


@own
def test_an_image_does_not_see_the_others_of_its_batch(name, task):
    model, inputs = build(name, task).eval(), images(task, 33, 47)
    alone = predict(model, tuple(t[:1] for t in inputs))
    torch.testing.assert_close(predict(model, inputs)[:1], alone, rtol=1e-3, atol=1e-4)


@every
def test_bfloat16(name, task):
    model, inputs = build(name, task).eval(), images(task, 64, 96)
    exact = predict(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = predict(model, inputs)
    assert rough.isfinite().all()
    assert (rough.float() - exact).norm() < 0.1 * exact.norm()


@own
def test_bfloat16_in_training(name, task):
    model = build(name, task).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = train(model, images(task, 32, 32))
        sum(o.float().square().mean() for o in outputs.values()).backward()
    assert not without_gradient(model)


@every
def test_a_file_holds_the_whole_model(name, task, tmp_path):
    model, inputs = build(name, task), images(task, 33, 47)
    with torch.no_grad():
        train(model.train(), inputs)  # moves the statistics of batch norms
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, describe(model))
    again, meta = load_checkpoint(path)
    assert (meta.architecture, meta.task) == (name, task)
    assert torch.equal(predict(again, inputs), predict(model.eval(), inputs))


def describe(model):
    numbers = [3, 3] if model.task == "change" else model.in_chans
    numbers = [numbers] if isinstance(numbers, int) else numbers
    return CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task=model.task,
        inputs=tuple(
            InputSpec(
                name=f"image{i}",
                bands=tuple(f"band{b}" for b in range(n)),
                transform=Transform.unit8(n),
            )
            for i, n in enumerate(numbers)
        ),
        classes=tuple(ClassInfo(value=i, name=f"c{i}", color=(i, i, i)) for i in range(CLASSES)),
        output="softmax",
        size_multiple=model.size_multiple,
    )


def compiled_agrees(name, task, backend):
    torch._dynamo.reset()
    model, inputs = build(name, task).eval(), images(task, 64, 64, batch=1)
    expected = predict(model, inputs, **few_steps(model))
    found = predict(torch.compile(model, backend=backend), inputs, **few_steps(model))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@own
def test_torch_compile(name, task):
    compiled_agrees(name, task, "aot_eager")


@pytest.mark.slow
@own
def test_torch_compile_with_inductor(name, task):
    compiled_agrees(name, task, "inductor")


@own
def test_torch_export(name, task):
    model, inputs = build(name, task).eval(), images(task, 64, 64, batch=1)
    expected = predict(model, inputs, **few_steps(model))
    exported = torch.export.export(model, inputs, few_steps(model)).module()
    found = predict(exported, inputs, **few_steps(model))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
