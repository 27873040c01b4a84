"""Official state dicts: every shape they come in, and what is refused."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rsmamba_models import ImportFailedError, create_model, import_official
from rsmamba_models.importers.rs_mamba import load_block, load_ossm, official_key
from rsmamba_models.importers.state import read_state

SMALL = {"dims": (8, 16, 32, 64), "depths": (1, 2, 1, 1), "ssm_d_state": 3, "ssm_ratio": 1.5}


def official(task="ss", **changes):
    """An official state dict of a small model, and that model."""
    torch.manual_seed(0)
    model = create_model(f"rsm_{task}_nano", **(SMALL | changes)).eval()
    head = {"ss": "conv_out_seg", "cd": "conv_out_change"}[task]
    state = OrderedDict()
    for key, value in model.state_dict().items():
        merged = key.endswith(("A_log", ".D"))
        state[official_key(key, head)] = value.flatten(0, 1) if merged else value
    return state, model


@pytest.fixture(scope="module")
def state():
    return official()[0]


def same_weights(a, b):
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in a.state_dict().items())


class TestWhatTheShapesTell:
    @pytest.mark.parametrize("task", ["ss", "cd"])
    def test_the_task_and_every_weight(self, task):
        state, model = official(task)
        assert same_weights(import_official(state, "rs_mamba"), model)

    def test_bands_and_classes_of_forks(self):
        state, _ = official(in_chans=67, num_classes=6)
        found = import_official(state, "rs_mamba")
        assert (found.in_chans, found.num_classes) == (67, 6)

    def test_a_fixed_dt_rank(self):
        state, _ = official(ssm_dt_rank=3)
        assert import_official(state, "rs_mamba").arguments["ssm_dt_rank"] == 3

    def test_the_arguments_make_the_model_again(self, state):
        found = import_official(state, "rs_mamba")
        again = create_model(found.architecture, **found.arguments)
        again.load_state_dict(found.state_dict())

    def test_other_sizes_go_by_tiny_with_their_own_arguments(self, state):
        model = import_official(state, "rs_mamba")
        assert model.architecture == "rsm_ss_tiny"
        assert model.arguments["dims"] == [8, 16, 32, 64]

    def test_the_model_is_in_eval_mode(self, state):
        assert not import_official(state, "rs_mamba").training


class TestWrappers:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda s: {"net": s, "optimizer": {"lr": 1}},
            lambda s: {"state_dict": s, "epoch": 3},
            lambda s: {"model": {"state_dict": s}},
            lambda s: {f"module.{k}": v for k, v in s.items()},
            lambda s: {"net": {f"module.{k}": v for k, v in s.items()}},
            lambda s: {"state_dict": {f"model.module.{k}": v for k, v in s.items()}},
            lambda s: {k: v.numpy() for k, v in s.items()},
            lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
            lambda s: {k: torch.nn.Parameter(v, False) for k, v in s.items()},
        ],
    )
    def test_all_of_them_come_off(self, state, wrap):
        assert same_weights(import_official(wrap(state), "rs_mamba"), official()[1])

    @pytest.mark.parametrize("family", ["rs_mamba", "rs-mamba", "RS_Mamba"])
    def test_family_names_are_forgiving(self, state, family):
        import_official(state, family)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_pytorch_files(self, state, tmp_path, legacy):
        path = tmp_path / "best f1.pth"
        torch.save({"net": state}, path, _use_new_zipfile_serialization=not legacy)
        assert same_weights(import_official(path, "rs_mamba"), official()[1])

    def test_safetensors_files(self, state, tmp_path):
        path = tmp_path / "w.safetensors"
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        assert same_weights(import_official(str(path), "rs_mamba"), official()[1])


class TestConfiguration:
    def test_what_keys_cannot_tell_is_taken(self, state):
        model = import_official(
            state, "rs_mamba", drop_path_rate=0.2, layer_norm_eps=1e-6, batch_norm_eps=1e-3
        )
        assert model.encoder.stages[3][-1].drop_path.rate == pytest.approx(0.2)
        assert model.encoder.patch_embed.norm1.eps == 1e-6
        assert model.head.upsample_x4[0].norm.eps == 1e-3

    def test_train_mode_is_for_the_asking(self, state):
        assert import_official(state, "rs_mamba", mode="train").training

    def test_what_agrees_with_the_shapes_is_accepted(self, state):
        import_official(
            state,
            "rs_mamba",
            model="RSM_SS",
            dims=(8, 16, 32, 64),
            depths=[1, 2, 1, 1],
            ssm_d_state=3,
            ssm_ratio=1.5,
            ssm_dt_rank="auto",
            mlp_ratio=4.0,
            patch_size=4,
            norm_layer="LN",
            forward_type="v3",
            in_chans=3,
            num_classes=1,
        )

    @pytest.mark.parametrize(
        "wrong",
        [
            {"depths": [2, 2, 9, 2]},
            {"ssm_d_state": 16},
            {"model": "RSM_CD"},
            {"patch_size": 8},
            {"forward_type": "v0"},
            {"mode": "test"},
            {"num_classes": 2},
        ],
    )
    def test_what_contradicts_the_shapes_is_refused(self, state, wrong):
        with pytest.raises(ImportFailedError, match=next(iter(wrong))):
            import_official(state, "rs_mamba", **wrong)

    def test_unknown_terms_list_the_known_ones(self, state):
        with pytest.raises(ImportFailedError, match=r"'depht'.*drop_path_rate.*depths"):
            import_official(state, "rs_mamba", depht=3)

    def test_unknown_families_list_the_known_ones(self, state):
        with pytest.raises(ImportFailedError, match=r"'vmamba'.*rs_mamba"):
            import_official(state, "vmamba")


class TestRefusals:
    def refuse(self, state, message):
        with pytest.raises(ImportFailedError, match=message):
            import_official(state, "rs_mamba")

    def test_missing_keys_are_named(self, state):
        rest = {k: v for k, v in state.items() if not k.startswith("deocder_block2")}
        self.refuse(rest, r"missing: deocder_block2\.fuse\.0\.weight.*and 1 more")

    def test_left_over_keys_are_named(self, state):
        self.refuse({**state, "ema.decay": torch.ones(1)}, r"not part of it: ema\.decay")

    def test_other_shapes_are_named(self, state):
        key = "encoder_block2.blocks.1.mlp.fc2.weight"
        self.refuse({**state, key: torch.zeros(16, 3)}, rf"{key} has shape \(16, 3\)")

    def test_a_gap_between_blocks_is_noticed(self, state):
        moved = {k.replace("block2.blocks.1.", "block2.blocks.7."): v for k, v in state.items()}
        self.refuse(moved, r"block2\.blocks\.1\.")

    def test_four_directions_are_vmamba(self, state):
        four = {k: v[:4] if "dt_projs_weight" in k else v for k, v in state.items()}
        self.refuse(four, "4 scan directions.*VMamba")

    def test_ranks_that_follow_no_rule(self, state):
        key = "encoder_block3.blocks.0.op.dt_projs_weight"
        self.refuse({**state, key: torch.zeros(8, 48, 7)}, "dt ranks")

    def test_widths_that_do_not_double(self, state):
        key = "encoder_block3.blocks.0.op.in_proj.weight"
        self.refuse({**state, key: torch.zeros(96, 31)}, "double")

    @pytest.mark.parametrize("junk", [{}, {"epoch": 3}, {"net": {}}, [1, 2], torch.zeros(2)])
    def test_what_is_no_state_dict(self, junk):
        self.refuse(junk, "no state dict was found")

    def test_a_module_is_not_a_state_dict(self):
        self.refuse(torch.nn.Linear(1, 1), "pass model.state_dict()")

    def test_values_that_are_no_tensors_are_named(self, state):
        self.refuse({**state, "epoch": 3}, "epoch holds a int")

    def test_another_familys_weights(self):
        self.refuse({"layers.0.weight": torch.zeros(2)}, "no RS-Mamba state dict")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            import_official(tmp_path / "no.pth", "rs_mamba")

    def test_a_safetensors_file_that_is_none(self, tmp_path):
        path = tmp_path / "w.safetensors"
        path.write_bytes(b"nothing")
        self.refuse(path, "not a readable safetensors file")


class TestParts:
    def test_a_block_and_its_scan_share_weights_with_the_model(self, state):
        model = import_official(state, "rs_mamba")
        prefix = "encoder_block2.blocks.1."
        part = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        ours = model.encoder.stages[1][2]
        assert same_weights(load_block(part), ours)
        assert same_weights(load_ossm(part), ours.scan)

    def test_a_part_is_checked_against_what_is_said_of_it(self, state):
        prefix = "encoder_block1.blocks.0."
        part = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        load_block(part, d_model=8, d_inner=12, ssm_d_state=3, mlp_ratio=4.0, directions=8)
        with pytest.raises(ImportFailedError, match="d_model"):
            load_ossm(part, d_model=9)

    def test_a_block_without_a_key_names_it(self, state):
        with pytest.raises(ImportFailedError, match=r"op\.in_proj\.weight|mlp\.fc1\.weight"):
            load_block({"norm.weight": torch.ones(4)})


def test_half_and_integer_arrays_keep_their_kind():
    found = read_state({"a": np.float16([1.5]), "n": np.int64(3), "b": torch.ones(1).bfloat16()})
    assert [t.dtype for t in found.values()] == [torch.float32, torch.int64, torch.float32]
