"""Checkpoints: what goes in comes out, and nothing else is believed."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsmamba_models import (
    ArgumentsError,
    CheckpointFormatError,
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    Transform,
    create_model,
    load_checkpoint,
    read_meta,
    save_checkpoint,
)

SMALL = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "ssm_d_state": 2}


def classes(count):
    return tuple(ClassInfo(value=i, name=f"c{i}", color=(i, 0, 0)) for i in range(count))


def describe(model, **changes):
    names = ("t1", "t2") if model.task == "change" else ("image",)
    inputs = changes.get("inputs") or tuple(
        InputSpec(
            name=n,
            bands=tuple(f"b{i}" for i in range(model.in_chans)),
            transform=Transform.unit8(model.in_chans),
        )
        for n in names
    )
    fields = {
        "architecture": model.architecture,
        "arguments": model.arguments,
        "task": model.task,
        "inputs": inputs,
        "classes": classes(max(2, model.num_classes)),
        "output": "sigmoid" if model.num_classes == 1 else "softmax",
        "size_multiple": model.size_multiple,
    }
    return CheckpointMeta(**(fields | changes))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model("rsm_ss_nano", in_chans=4, num_classes=3, **SMALL)
    model(torch.randn(2, 4, 32, 32))  # moves the batch norms' statistics and counters
    return model.eval()


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, describe(model, gsd=0.5, metrics={"iou": 0.7}, licence="CC0"))
    return path


def rewrite(path, tensors=None, change=None):
    """The same file with other tensors or metadata, as an editor or an attacker would make it."""
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + size])
    meta = json.loads(header["__metadata__"]["rsmamba"])
    if change:
        change(meta)
    save_file(tensors or load_file(path), path, {"rsmamba": json.dumps(meta)})


class TestRoundTrip:
    def test_float32_is_exact(self, model, saved):
        loaded, _ = load_checkpoint(saved)
        assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in model.state_dict().items())

    def test_weights_are_aligned_as_fresh_ones_are(self, saved):
        loaded, _ = load_checkpoint(saved)
        assert all(t.data_ptr() % 64 == 0 for t in loaded.state_dict().values())

    def test_the_same_logits(self, model, saved):
        loaded, _ = load_checkpoint(saved)
        x = torch.randn(1, 4, 40, 40)
        with torch.no_grad():
            assert torch.equal(loaded(x), model(x))

    def test_float16_halves_the_file_and_loads_as_float32(self, model, saved, tmp_path):
        half = tmp_path / "half.safetensors"
        save_checkpoint(half, model, describe(model), dtype=torch.float16)
        loaded, _ = load_checkpoint(half)
        assert half.stat().st_size < 0.6 * saved.stat().st_size
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}

    def test_counters_stay_whole_numbers(self, model, tmp_path):
        path = tmp_path / "half.safetensors"
        save_checkpoint(path, model, describe(model), dtype=torch.float16)
        counter = load_checkpoint(path)[0].head.upsample_x4[0].norm.num_batches_tracked
        assert counter.dtype == torch.int64
        assert counter == 1

    def test_metadata_comes_back_equal(self, model, saved):
        meta = describe(model, gsd=0.5, metrics={"iou": 0.7}, licence="CC0")
        assert read_meta(saved).model_copy(update={"sha256": ""}) == meta

    def test_saving_returns_what_was_written(self, model, tmp_path):
        path = tmp_path / "m.safetensors"
        assert save_checkpoint(path, model, describe(model)) == read_meta(path)

    def test_a_loaded_model_is_in_eval_mode_and_trainable(self, saved):
        loaded, _ = load_checkpoint(saved)
        assert not loaded.training
        assert all(p.requires_grad for p in loaded.parameters())
        loaded.train()(torch.randn(2, 4, 32, 32)).sum().backward()

    def test_what_the_architecture_keeps_frozen_stays_frozen(self, tmp_path):
        model = create_model("mamba_diffusion_nano", in_chans=(3, 1), num_classes=3)
        path = tmp_path / "d.safetensors"
        bands = (("r", "g", "b"), ("sar",))
        inputs = tuple(
            InputSpec(name=n, bands=b, transform=Transform.unit8(len(b)))
            for n, b in zip(("optical", "sar"), bands, strict=True)
        )
        save_checkpoint(path, model, describe(model, inputs=inputs, sampler=model.sampler))
        loaded, _ = load_checkpoint(path)
        frozen = {n for n, p in loaded.named_parameters() if not p.requires_grad}
        assert frozen == {n for n, p in model.named_parameters() if not p.requires_grad}
        assert any("other_out_proj" in name for name in frozen)

    def test_saving_twice_gives_the_same_bytes(self, model, saved, tmp_path):
        other = tmp_path / "other.safetensors"
        save_checkpoint(other, model, read_meta(saved))
        assert other.read_bytes() == saved.read_bytes()

    def test_change_models_round_trip(self, tmp_path):
        model = create_model("rsm_cd_nano", **SMALL)
        save_checkpoint(tmp_path / "cd.safetensors", model, describe(model))
        loaded, meta = load_checkpoint(tmp_path / "cd.safetensors")
        assert (loaded.task, meta.task, len(meta.inputs)) == ("change", "change", 2)


class TestSaving:
    def test_weights_that_overflow_float16_are_refused(self, tmp_path):
        model = create_model("rsm_ss_nano", **SMALL)
        with torch.no_grad():
            model.head.out.bias.fill_(1e6)
        with pytest.raises(CheckpointFormatError, match="float32"):
            save_checkpoint(tmp_path / "m.st", model, describe(model), dtype=torch.float16)

    def test_diverged_weights_are_refused(self, tmp_path):
        model = create_model("rsm_ss_nano", **SMALL)
        model.head.upsample_x4[0].norm.running_var.fill_(float("nan"))
        with pytest.raises(CheckpointFormatError, match="diverged"):
            save_checkpoint(tmp_path / "m.st", model, describe(model))

    def test_a_refusal_leaves_nothing_behind(self, tmp_path):
        model = create_model("rsm_ss_nano", **SMALL)
        with pytest.raises(ArgumentsError):
            save_checkpoint(tmp_path / "m.st", model, describe(model), dtype=torch.bfloat16)
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupted_write_keeps_the_old_file(self, model, saved, monkeypatch):
        before = saved.read_bytes()

        def fail(*args):
            raise OSError("disk full")

        monkeypatch.setattr("safetensors.torch.save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(saved, model, describe(model))
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture": "rsm_ss_tiny"},
            {"arguments": {}},
            {"size_multiple": 16},
            {"output": "sigmoid", "classes": classes(2)},
            {"classes": classes(4)},
        ],
    )
    def test_metadata_of_another_model_is_refused(self, model, tmp_path, changes):
        with pytest.raises(ArgumentsError):
            save_checkpoint(tmp_path / "m.st", model, describe(model, **changes))


class TestLoading:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_checkpoint(tmp_path / "no.safetensors")

    def test_a_folder(self, tmp_path):
        with pytest.raises(CheckpointFormatError, match="a folder"):
            load_checkpoint(tmp_path)

    @pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
    def test_truncation_is_noticed(self, saved, keep):
        data = saved.read_bytes()
        saved.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
        with pytest.raises(CheckpointFormatError, match=r"truncated|read|damaged"):
            load_checkpoint(saved)

    def test_one_flipped_bit_is_noticed(self, saved):
        data = bytearray(saved.read_bytes())
        data[-1000] ^= 1
        saved.write_bytes(data)
        with pytest.raises(CheckpointFormatError, match="checksum"):
            load_checkpoint(saved)

    @pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02}q\x00.", b"", b"\xff" * 64])
    def test_other_files_are_not_checkpoints(self, tmp_path, start):
        path = tmp_path / "model.pth"
        path.write_bytes(start)
        with pytest.raises(CheckpointFormatError, match=r"checkpoint import|not a safetensors"):
            load_checkpoint(path)

    def test_a_plain_safetensors_file_is_not_a_checkpoint(self, tmp_path):
        save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointFormatError, match="without 'rsmamba' metadata"):
            load_checkpoint(tmp_path / "w.safetensors")

    def test_a_newer_format_asks_for_a_newer_version(self, saved):
        rewrite(saved, change=lambda m: m.update(format=2, something_new=1))
        with pytest.raises(CheckpointFormatError, match="install a newer rsmamba"):
            read_meta(saved)

    @pytest.mark.parametrize("version", [None, "1", 0, True])
    def test_a_format_that_is_no_version(self, saved, version):
        rewrite(saved, change=lambda m: m.update(format=version))
        with pytest.raises(CheckpointFormatError, match="format version"):
            read_meta(saved)

    def test_unknown_fields_are_refused(self, saved):
        rewrite(saved, change=lambda m: m.update(run_this="rm -rf"))
        with pytest.raises(CheckpointFormatError, match="run_this"):
            read_meta(saved)

    def test_an_unknown_architecture_is_named(self, saved):
        rewrite(saved, change=lambda m: m.update(architecture="os.system"))
        with pytest.raises(CheckpointFormatError, match=r"os\.system"):
            load_checkpoint(saved)

    @pytest.mark.parametrize("junk", [{"name": "x"}, {"dims": "abcd"}, {"depths": [1e9] * 4}])
    def test_arguments_that_make_no_model(self, saved, junk):
        rewrite(saved, change=lambda m: m["arguments"].update(junk))
        with pytest.raises(CheckpointFormatError):
            load_checkpoint(saved)

    def test_huge_arguments_allocate_nothing(self, saved):
        def enlarge(meta):
            meta["arguments"]["dims"] = [8192, 16384, 32768, 65536]

        rewrite(saved, change=enlarge)
        with pytest.raises(CheckpointFormatError, match="the architecture wants"):
            load_checkpoint(saved)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda t: t.pop("head.out.bias"), "missing: head.out.bias"),
            (lambda t: t.update(extra=torch.zeros(1)), "fit nowhere: extra"),
            (lambda t: t.update({"head.out.bias": torch.zeros(7)}), "head.out.bias is"),
            (lambda t: t.update({"head.out.bias": torch.zeros(3).long()}), "head.out.bias is"),
        ],
    )
    def test_other_tensors_are_named_even_under_a_right_checksum(self, saved, edit, message):
        from rsmamba_models.checkpoint import _digest

        tensors = load_file(saved)
        edit(tensors)
        rewrite(saved, tensors, lambda m: m.update(sha256=_digest(tensors)))
        with pytest.raises(CheckpointFormatError, match=message):
            load_checkpoint(saved)

    def test_metadata_nested_beyond_reason(self, saved):
        save_file(load_file(saved), saved, {"rsmamba": "[" * 100_000})
        with pytest.raises(CheckpointFormatError):
            read_meta(saved)

    def test_reading_metadata_does_not_touch_the_weights(self, saved):
        data = saved.read_bytes()
        saved.write_bytes(data[:-500])
        assert read_meta(saved).gsd == 0.5


class TestTransform:
    def test_imagenet(self):
        x = np.full((3, 1, 1), 255, np.uint8)
        expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        assert np.allclose(Transform.imagenet8().apply(x).ravel(), expected, atol=1e-6)

    def test_every_step_in_its_order(self):
        t = Transform(
            offset=(10.0,), scale=(0.1,), db=True, clip=(-15.0, 5.0), mean=(-5.0,), std=(10.0,)
        )
        found = t.apply(np.array([[[20.0, 11.0, 10.0, 9010.0]]]))
        assert found.ravel().tolist() == pytest.approx([0.5, -0.5, -1.0, 1.0])

    def test_the_result_is_float32_and_keeps_nan(self):
        found = Transform.unit8(1).apply(np.array([[[np.nan, 255.0]]]))
        assert found.dtype == np.float32
        assert np.isnan(found[0, 0, 0])

    def test_the_input_is_left_alone(self):
        x = np.ones((1, 2, 2), np.float32)
        Transform.unit8(1).apply(x)
        assert (x == 1).all()

    def test_unit16_maps_reflectance_one_to_two(self):
        assert Transform.unit16(1).apply(np.full((1, 1, 1), 10_000, np.uint16)) == pytest.approx(2)

    def test_another_band_count_is_refused(self):
        with pytest.raises(ValueError, match="expected 3 bands"):
            Transform.imagenet8().apply(np.zeros((4, 2, 2)))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"std": (0.0,)},
            {"mean": (0.0, 0.0)},
            {"clip": (1.0, 1.0)},
            {"scale": (float("nan"),)},
            {"offset": (), "scale": (), "mean": (), "std": ()},
        ],
    )
    def test_transforms_that_make_no_sense(self, wrong):
        fields = {"offset": (0.0,), "scale": (1.0,), "mean": (0.0,), "std": (1.0,)}
        with pytest.raises(ValueError):
            Transform(**(fields | wrong))


class TestMeta:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"task": "change"},
            {"classes": ()},
            {"classes": (ClassInfo(value=1, name="a", color=(0, 0, 0)),) * 3},
            {"overlap": 1.0},
            {"tile": 0},
            {"threshold": 1.5},
            {"temperature": 0.0},
        ],
    )
    def test_contradictions_are_refused(self, model, wrong):
        with pytest.raises(ValueError):
            describe(model, **wrong)

    def test_bands_and_transform_must_agree(self):
        with pytest.raises(ValueError, match="names 2 bands"):
            InputSpec(name="x", bands=("a", "b"), transform=Transform.unit8(3))

    def test_dtypes_are_numpy_names(self):
        with pytest.raises(ValueError, match="uint7"):
            InputSpec(name="x", bands=("a",), transform=Transform.unit8(1), dtype="uint7")

    def test_metadata_is_frozen(self, model):
        with pytest.raises(ValueError, match="frozen"):
            describe(model).tile = 3
