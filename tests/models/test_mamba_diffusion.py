"""Mamba-Diffusion beyond the official numbers: inputs, noise, samplers, training, importing."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsmamba_models import (
    ArgumentsError,
    CheckpointMeta,
    ClassInfo,
    ImportFailedError,
    InputSpec,
    Transform,
    create_model,
    import_official,
    load_checkpoint,
    save_checkpoint,
)
from rsmamba_models.importers.mamba_diffusion import official_key
from rsmamba_models.mamba_diffusion.diffusion import (
    Sampler,
    alpha_sigma,
    ddim_step,
    ddpm_step,
    log_snr,
)

TINY = {
    "dims": (8, 16, 32, 64),
    "depths": (1, 1, 1, 1),
    "dcf_depths": (1, 1, 1, 1),
    "dss4_depths": (1, 1, 1, 1),
    "neck_channels": 32,
    "gn_groups": 8,
    "decoder_layers": 1,
    "decoder_ffn": 32,
    "bit_scale": 1.0,  # so that what the mask says matters
}


def tiny(in_chans=(3, 1), num_classes=4, **arguments):
    torch.manual_seed(0)
    model = create_model(
        "mamba_diffusion_nano", in_chans=in_chans, num_classes=num_classes, **TINY | arguments
    )
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


def pair(batch=1, height=20, width=28, bands=(3, 1), seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, n, height, width, generator=g) for n in bands)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_parameters_are_the_official_ones():
    with torch.device("meta"):
        model = create_model("mamba_diffusion_base", in_chans=(4, 1), num_classes=7)
    parts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert parts == {
        "encoder": 410_328_519,
        "neck": 3_117_568,
        "codes": 2_048,
        "transform": 131_328,
        "time": 1_068_040,
        "denoiser": 7_247_687,
        "auxiliary": 592_135,
    }
    assert sum(parts.values()) == 422_487_325


def test_fusion_takes_the_first_drop_path_rates():
    with torch.device("meta"):
        encoder = create_model("mamba_diffusion_base", in_chans=(4, 1), num_classes=7).encoder
    last = encoder.stages[-1]
    assert last.sar[-1].drop_path.rate == pytest.approx(0.6)
    assert last.dcf[-1].sar.drop_path.rate == pytest.approx(0.21)
    assert last.dss4[-1].optical.drop_path.rate == pytest.approx(0.27)


def test_more_fusion_blocks_than_encoder_blocks_are_all_built():
    model = tiny(dcf_depths=(3, 3, 3, 3), drop_path_rate=0.3)
    assert [len(stage.dcf) for stage in model.encoder.stages] == [3, 3, 3, 3]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 33), (64, 64)])
def test_any_size(model, size):
    with torch.inference_mode():
        logits = model(*pair(2, *size))
    assert logits.shape == (2, 4, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("bands", [(4, 1), (13, 2), (1, 4)])
def test_one_stacked_tensor_is_both_images(bands):
    model = tiny(in_chans=bands)
    images = pair(bands=bands)
    with torch.inference_mode():
        assert torch.equal(model(torch.cat(images, 1)), model(*images))


def test_one_number_of_bands_has_sar_last():
    assert tiny(in_chans=5).in_chans == (4, 1)


@pytest.mark.parametrize("in_chans", [1, (3,), (3, 1, 1), (0, 4), (3, True), "31"])
def test_bands_that_make_no_pair_are_refused(in_chans):
    with pytest.raises(ArgumentsError, match="in_chans"):
        tiny(in_chans=in_chans)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 3, 8, 8)],
        [(1, 4, 8, 8), (1, 1, 8, 8)],
        [(1, 3, 8, 8), (1, 1, 8, 9)],
        [(2, 3, 8, 8), (1, 1, 8, 8)],
        [(3, 8, 8), (1, 8, 8)],
        [(1, 3, 0, 8), (1, 1, 0, 8)],
    ],
)
def test_images_that_do_not_fit_are_refused(model, shapes):
    with pytest.raises(ArgumentsError, match="optical image"):
        model(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    "change",
    [
        {"noise_schedule": "quadratic"},
        {"bit_scale": 0.0},
        {"gn_groups": 5},
        {"decoder_heads": 7},
        {"depths": (1, 1, 1)},
        {"dims": (8, 16, 32, 48)},
        {"ssm_conv": 4},
        {"time_range": (0.5, 0.5)},
        {"sampler": {"name": "euler"}},
        {"sampler": {"steps": 0}},
        {"sampler": {"stride": 2}},
        {"sampler": "ddpm"},
    ],
)
def test_arguments_that_make_no_network_are_refused(change):
    with pytest.raises(ArgumentsError):
        tiny(**change)


# Noise


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_an_image_does_not_see_its_batch(model, name):
    optical, sar = pair(3)
    sampler = {"name": name, "starts": 2}
    shape = model.noise_shape(3, 20, 28, sampler=sampler)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for given in (None, noise):
            together = model(optical, sar, noise=given, sampler=sampler)
            for i in (0, 2):
                own = None if given is None else given[i : i + 1]
                alone = model(optical[i : i + 1], sar[i : i + 1], noise=own, sampler=sampler)
                assert close(together[i : i + 1], alone)


def test_default_noise_is_the_same_whatever_torch_drew_before(model):
    images = pair()
    with torch.inference_mode():
        torch.manual_seed(1)
        first = model(*images)
        torch.manual_seed(2)
        assert torch.equal(model(*images), first)


def test_noise_decides_and_a_generator_repeats_it(model):
    images = pair()
    with torch.inference_mode():
        results = [
            model(*images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 1)
        ]
    assert torch.equal(results[0], results[2])
    assert not close(results[0], results[1])


def test_noise_without_the_axis_of_draws_is_image_by_image(model):
    images = pair(2)
    sampler = {"starts": 2}
    noise = torch.randn(model.noise_shape(2, 20, 28, sampler=sampler))
    with torch.inference_mode():
        expected = model(*images, noise=noise, sampler=sampler)
        assert torch.equal(model(*images, noise=noise.flatten(0, 1), sampler=sampler), expected)


def test_noise_of_another_shape_is_refused(model):
    with pytest.raises(ArgumentsError, match="noise_shape"):
        model(*pair(), noise=torch.zeros(1, 1, 32, 5, 8))


# Samplers


@pytest.mark.parametrize(
    ("settings", "draws"),
    [
        ({"steps": 10}, 1),
        ({"starts": 4}, 4),
        ({"name": "ddpm"}, 2),  # of three steps only the first does not go to time 0
        ({"name": "ddpm", "time_difference": 0, "starts": 2}, 6),
        ({"name": "ddpm", "steps": 1}, 1),
        ({"name": "ddpm", "end": 0.1}, 3),
    ],
)
def test_draws(model, settings, draws):
    assert model.noise_shape(5, 21, 28, sampler=settings) == (5, draws, 32, 6, 7)
    with torch.inference_mode():
        assert model(*pair(), sampler=settings).isfinite().all()


def test_ddpm_adds_noise_on_its_way(model):
    images = pair()
    noise = torch.randn(model.noise_shape(1, 20, 28, sampler={"name": "ddpm"}))
    other = noise.clone()
    other[:, 1] *= -1
    with torch.inference_mode():
        results = [model(*images, noise=n, sampler={"name": "ddpm"}) for n in (noise, other)]
    assert not close(*results)


def test_settings_in_force(model):
    """The call's are before the model's, ``steps`` before both."""
    images = pair()
    configured = tiny(sampler={"steps": 1})
    assert configured.arguments["sampler"]["steps"] == configured.sampler["steps"] == 1
    with torch.inference_mode():
        one = configured(*images)
        assert torch.equal(model(*images, sampler={"steps": 1}), one)
        assert torch.equal(model(*images, steps=1, sampler={"steps": 3}), one)
        assert not close(model(*images), one)


def test_settings_are_checked_when_they_are_set():
    model = tiny()
    model.sampler = {"name": "ddpm", "steps": 5}
    assert (model.sampler["steps"], model.sampler["starts"]) == (5, 1)
    with pytest.raises(ArgumentsError, match="ddim or ddpm"):
        model.sampler = {"name": "euler"}
    assert model.sampler["name"] == "ddpm"


def test_several_starts_are_averaged(model):
    images = pair()
    noise = torch.randn(model.noise_shape(1, 20, 28, sampler={"starts": 3}))
    with torch.inference_mode():
        mean = torch.stack([model(*images, noise=noise[:, i : i + 1]) for i in range(3)]).mean(0)
        assert close(model(*images, noise=noise, sampler={"starts": 3}), mean)


@pytest.mark.parametrize("classes", [1, 4])
def test_accumulation_returns_logits_of_the_mean_probability(classes):
    model = tiny(num_classes=classes)
    images = pair()
    to_probability = torch.sigmoid if classes == 1 else lambda x: x.softmax(1)
    accumulate = {"accumulate": True}
    with torch.inference_mode():
        logits = model(*images, sampler=accumulate)
        mean = model(*images, sampler=accumulate | {"as_probabilities": True})
    assert close(to_probability(logits), mean)


@given(
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.sampled_from(["cosine", "linear"]),
)
def test_ddim_stays_on_the_line_of_signal_and_noise(start, end, schedule):
    now, after = log_snr(torch.tensor([max(start, end), min(start, end)]).double(), schedule)
    z0, eps = torch.tensor([0.5, -1.0]).double(), torch.tensor([1.0, 2.0]).double()
    (alpha, sigma), (alpha_after, sigma_after) = alpha_sigma(now), alpha_sigma(after)
    found = ddim_step(alpha * z0 + sigma * eps, z0, now, after)
    assert torch.allclose(found, alpha_after * z0 + sigma_after * eps)


@given(st.floats(0.0, 0.99), st.floats(0.0, 0.99), st.sampled_from(["cosine", "linear"]))
def test_ddpm_keeps_mean_and_variance_of_the_forward_process(start, end, schedule):
    now, after = log_snr(torch.tensor([max(start, end), min(start, end)]).double(), schedule)
    one, zero = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    (alpha, sigma), (alpha_after, sigma_after) = alpha_sigma(now), alpha_sigma(after)
    mean = ddpm_step(alpha * one, one, now, after, None)
    from_past = ddpm_step(sigma * one, zero, now, after, None)
    fresh = ddpm_step(zero, zero, now, after, one)
    assert torch.allclose(mean, alpha_after)
    assert torch.allclose(from_past**2 + fresh**2, sigma_after**2, rtol=1e-4, atol=1e-9)


@given(st.integers(1, 50), st.integers(0, 5), st.floats(0.0, 0.9))
def test_times_start_at_pure_noise_and_never_rise(steps, jump, end):
    times = Sampler(steps=steps, time_difference=jump, end=end).times()
    assert times[0][0] == 1.0
    assert all(end <= after for _, after in times)
    assert all(a[0] > b[0] and a[1] >= b[1] for a, b in itertools.pairwise(times))


# Training


@pytest.mark.parametrize("classes", [1, 4])
def test_training_reaches_every_parameter_that_computes(classes):
    model = tiny(num_classes=classes).train()
    target = torch.randint(0, max(classes, 2), (2, 20, 28))
    target[:, :5] = 255
    outputs = model.training_forward(*pair(2), target=target)
    assert {name: tuple(t.shape) for name, t in outputs.items()} == {
        "logits": (2, classes, 20, 28),
        "auxiliary": (2, classes, 20, 28),
    }
    sum(t.square().mean() for t in outputs.values()).backward()
    unreached = {name for name, p in model.named_parameters() if p.grad is None}
    assert unreached == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert model.needs_target


def test_training_draws_from_the_generator(model):
    target = torch.zeros(1, 20, 28, dtype=torch.long)
    first, second, third = (
        model.training_forward(
            *pair(), target=target, generator=torch.Generator().manual_seed(seed)
        )["logits"]
        for seed in (1, 2, 1)
    )
    assert torch.equal(first, third)
    assert not close(first, second)


def test_labels_out_of_range_are_no_label(model):
    """Any of them is taken as the code that stands for unlabelled pixels."""
    results = [
        model.training_forward(
            *pair(),
            target=torch.full((1, 20, 28), value),
            noise=torch.zeros(1, 32, 5, 7),
            times=torch.tensor([0.1]),
        )["logits"]
        for value in (255, -1, 4, 0)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not close(results[0], results[3])


@pytest.mark.parametrize("shape", [(3, 20, 28), (2, 20, 27), (2, 2, 20, 28), (20, 28)])
def test_labels_of_another_shape_are_refused(model, shape):
    with pytest.raises(ArgumentsError, match="labels"):
        model.training_forward(*pair(2), target=torch.zeros(shape, dtype=torch.long))


# Files


def official(model):
    """A state dict as the official code would have saved it."""
    return {
        official_key(key): value.flatten(0, 1) if key.endswith(("scan.A_log", "scan.D")) else value
        for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    "change",
    [
        {"in_chans": (13, 2)},
        {"ssm_d_state": 4, "ssm_ratio": 1.0, "ssm_dt_rank": 3, "ssm_conv_bias": True},
        {"depths": (2, 1, 3, 1), "dcf_depths": (1, 2, 1, 1), "dss4_depths": (0, 1, 2, 1)},
        {"decoder_layers": 3, "decoder_ffn": 64, "time_frequencies": 5, "mlp_ratio": 2.0},
        {"num_classes": 1},
    ],
)
def test_importer_reads_the_architecture_off_the_shapes(change):
    model = tiny(**{"in_chans": (4, 1)} | change)
    wrapped = {"state_dict": official(model), "meta": {}}
    found = import_official(wrapped, "mamba_diffusion", gn_groups=8, bit_scale=1.0)
    images = pair(bands=model.in_chans)
    with torch.inference_mode():
        assert torch.equal(found(*images), model(*images))


def test_importer_takes_diffusion_settings_in_the_official_terms():
    model = import_official(
        official(tiny()),
        "mamba_diffusion",
        timesteps=5,
        randsteps=2,
        time_difference=0,
        diffusion="ddpm",
        noise_schedule="linear",
        sample_range=[0.1, 0.9],
        gn_groups=8,
    )
    assert model.sampler == {
        "name": "ddpm",
        "steps": 5,
        "starts": 2,
        "accumulate": False,
        "time_difference": 0,
        "end": 0.1,
        "as_probabilities": False,
    }
    assert (model.noise_schedule, model.arguments["time_range"]) == ("linear", [0.1, 0.9])


def test_a_classifier_that_nothing_uses_may_be_of_any_size():
    state = official(tiny())
    state["backbone.classifier.head.weight"] = torch.zeros(1000, 64)
    state["backbone.classifier.head.bias"] = torch.zeros(1000)
    assert import_official(state, "mamba_diffusion", gn_groups=8).num_classes == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depths": [2, 2, 15, 2]}, "depths is"),
        ({"args": {"backbone": {"data": "hunan"}}}, "data is 'whu'"),
        ({"timestep": 3}, "no configuration term 'timestep'"),
        ({"in_chans": 5, "args": {"in_chans": 4}}, "given twice"),
        ({"decoder_heads": 5}, "decoder_heads"),
    ],
)
def test_importer_refuses_configurations_that_do_not_fit(config, message):
    with pytest.raises(ImportFailedError, match=message):
        import_official(official(tiny()), "mamba_diffusion", gn_groups=8, **config)


@pytest.mark.parametrize(
    "key",
    ["embedding_table.weight", "backbone.layers_a.0.blocks.0.op.A_logs", "time_mlp.0.weights"],
)
def test_importer_refuses_incomplete_states(key):
    state = official(tiny())
    del state[key]
    with pytest.raises(ImportFailedError, match=key.removeprefix("backbone.")):
        import_official(state, "mamba_diffusion", gn_groups=8)


def test_a_checkpoint_keeps_bands_and_sampler(tmp_path):
    model = tiny(sampler={"name": "ddpm", "steps": 2})
    colors = [(i, 0, 0) for i in range(4)]
    meta = CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task="multimodal",
        inputs=tuple(
            InputSpec(name=name, bands=bands, transform=Transform.unit8(len(bands)))
            for name, bands in (("optical", ("r", "g", "b")), ("sar", ("vv",)))
        ),
        classes=tuple(ClassInfo(value=i, name=str(i), color=c) for i, c in enumerate(colors)),
        output="softmax",
        size_multiple=model.size_multiple,
        sampler=model.sampler,
    )
    save_checkpoint(tmp_path / "m.safetensors", model, meta)
    found, _ = load_checkpoint(tmp_path / "m.safetensors")
    images = pair()
    assert (found.in_chans, found.sampler) == ((3, 1), model.sampler)
    with torch.inference_mode():
        assert close(found(*images), model(*images))


# Compilers and precisions


def test_bfloat16_agrees_with_float32(model):
    """But for the feedback of its decisions: one step."""
    images = pair()
    with torch.inference_mode():
        expected = model(*images, steps=1)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(*images, steps=1)
    assert (found.float() - expected).norm() / expected.norm() < 0.05


def test_the_whole_sampler_exports(tmp_path):
    model = tiny(dcf_depths=(1, 0, 0, 0), dss4_depths=(1, 0, 0, 0), sampler={"steps": 2})
    images = pair()
    noise = torch.randn(model.noise_shape(1, 20, 28))
    exported = torch.export.export(model, images, {"noise": noise})
    torch.export.save(exported, tmp_path / "m.pt2")
    found = torch.export.load(tmp_path / "m.pt2").module()
    with torch.inference_mode():
        assert close(found(*images, noise=noise), model(*images, noise=noise))
