"""Other people's .pth files: helpers are harmless, hostile ones do not run."""

import argparse
import builtins
import collections
import os
import pathlib
import struct
import sys
import types

import numpy as np
import pytest
import torch

from rsmamba_models import ImportFailedError, create_model, import_official
from rsmamba_models.importers.rs_mamba import official_key
from rsmamba_models.importers.state import read_state
from rsmamba_models.importers.unpickle import StandIn, load_pickle

WEIGHTS = {"w": torch.arange(3.0)}


@pytest.fixture(params=["zip", "legacy"])
def write(request, tmp_path):
    def save(content):
        path = tmp_path / "model.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return save


@pytest.fixture
def framework(monkeypatch):
    """Makes classes of frameworks that are not installed, so that they can be pickled."""

    def make(module, name, base=object):
        parts = module.split(".")
        for i in range(1, len(parts) + 1):
            part = ".".join(parts[:i])
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        cls = type(name, (base,), {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, cls)
        return cls

    return make


class TestHelpers:
    def test_plain_state_dicts(self, write):
        assert torch.equal(load_pickle(write(WEIGHTS))["w"], WEIGHTS["w"])

    @pytest.mark.parametrize(
        "helper",
        [
            argparse.Namespace(lr=0.1, paths=["a"]),
            np.float64(0.5),
            np.arange(4),
            pathlib.PurePosixPath("/data"),
            collections.deque([1, 2], maxlen=3),
            collections.defaultdict(list, {"a": [1]}),
            types.SimpleNamespace(a=1),
            slice(1, 2),
            frozenset({1}),
            int,
        ],
        ids=lambda h: type(h).__name__,
    )
    def test_helpers_beside_the_weights(self, write, helper):
        loaded = load_pickle(write({"state_dict": WEIGHTS, "helper": helper}))
        assert torch.equal(loaded["state_dict"]["w"], WEIGHTS["w"])

    @pytest.mark.parametrize(
        ("module", "name", "base"),
        [
            ("mmengine.logging.history_buffer", "HistoryBuffer", object),
            ("mmengine.config.config", "ConfigDict", dict),
            ("timm.utils.model_ema", "ModelEma", object),
            ("yacs.config", "CfgNode", dict),
        ],
    )
    def test_framework_objects(self, write, framework, module, name, base):
        helper = framework(module, name, base)()
        helper.state = np.arange(3)
        if base is dict:
            helper["lr"] = 0.1
        path = write({"state_dict": WEIGHTS, "meta": helper})
        assert torch.equal(load_pickle(path)["state_dict"]["w"], WEIGHTS["w"])

    def test_a_stand_in_holds_nothing(self, write):
        helper = load_pickle(write({"args": argparse.Namespace(lr=0.1)}))["args"]
        assert isinstance(helper, StandIn)
        assert not vars(helper)


def mmengine_file(framework, **entries):
    """What mmengine's runner writes after an epoch."""
    buffer = framework("mmengine.logging.history_buffer", "HistoryBuffer")
    loss = buffer()
    loss.max_length = 1_000_000
    loss._log_history, loss._count_history = np.array([0.7, 0.3]), np.array([1, 1])
    return {
        "meta": {
            "cfg": "crop_size = (512, 512)\nmodel = dict(type='EncoderDecoder')\n",
            "dataset_meta": {"classes": ("a", "b"), "palette": [[0, 0, 0], [255, 0, 0]]},
            "seed": np.int64(4),
            "epoch": 0,
            "iter": 15000,
            "experiment_name": "samba_20240404",
            "time": "20240404_120000",
            "mmengine_version": "0.10.4",
        },
        "message_hub": {
            "log_scalars": collections.OrderedDict({"train/loss": loss}),
            "runtime_info": collections.OrderedDict(cfg="", iter=15000, last_lr=np.float64(0.1)),
            "resumed_keys": collections.OrderedDict({"train/loss": True}),
        },
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "param_schedulers": [{"begin": 0, "end": 1500, "_global_step": 15000}],
        **entries,
    }


class TestFrameworks:
    def test_mmengine(self, write, framework):
        path = write(mmengine_file(framework, state_dict=collections.OrderedDict(WEIGHTS)))
        assert torch.equal(read_state(path)["w"], WEIGHTS["w"])

    def test_timm(self, write):
        args = argparse.Namespace(model="segman", lr=1e-3)
        path = write({"epoch": 3, "arch": "x", "state_dict": WEIGHTS, "args": args, "metric": 0.5})
        assert torch.equal(read_state(path)["w"], WEIGHTS["w"])

    def test_tensors_beside_the_weights(self, write):
        path = write({"state_dict": WEIGHTS, "best": torch.tensor(0.8), "metric": np.float64(1)})
        assert torch.equal(read_state(path)["w"], WEIGHTS["w"])


AVERAGE = {"w": torch.arange(3.0) / 2}


class TestAverages:
    @pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict", "ema"])
    def test_they_are_for_the_asking(self, write, key):
        path = write({"state_dict": WEIGHTS, key: AVERAGE})
        assert torch.equal(read_state(path)["w"], WEIGHTS["w"])
        assert torch.equal(read_state(path, "ema")["w"], AVERAGE["w"])

    def test_counters_and_prefixes_come_off(self, write):
        average = {"module.w": AVERAGE["w"], "n_averaged": torch.tensor(5)}
        path = write({"model": WEIGHTS, "model_ema": average})
        assert read_state(path, "ema").keys() == {"w"}

    @pytest.mark.parametrize("weights", ["model", "ema"])
    def test_mmengine_has_them_in_the_models_place(self, write, framework, weights):
        raw = {"steps": torch.tensor(9), "module.w": WEIGHTS["w"]}
        path = write(mmengine_file(framework, state_dict=AVERAGE, ema_state_dict=raw))
        assert torch.equal(read_state(path, weights)["w"], AVERAGE["w"])

    def test_their_absence_is_explained(self, write):
        with pytest.raises(ImportFailedError, match=r"no averaged weights.*epoch, state_dict"):
            read_state(write({"state_dict": WEIGHTS, "epoch": 1}), "ema")

    def test_averages_alone_are_pointed_out(self, write):
        with pytest.raises(ImportFailedError, match=r"weights='ema'"):
            read_state(write({"state_dict_ema": WEIGHTS, "epoch": 1}))

    def test_there_is_no_third_kind(self):
        with pytest.raises(ImportFailedError, match="'model' or 'ema'"):
            read_state(WEIGHTS, "best")

    def test_the_importer_takes_them(self):
        model = create_model("rsm_ss_nano")
        state = {official_key(k, "conv_out_seg"): v for k, v in model.state_dict().items()}
        state = {
            k: v.flatten(0, 1) if k.endswith(("A_logs", "Ds")) else v for k, v in state.items()
        }
        average = {k: v / 2 if v.is_floating_point() else v for k, v in state.items()}
        found = import_official({"net": state, "ema": average}, "rs_mamba", weights="ema")
        torch.testing.assert_close(found.head.out.weight, model.head.out.weight / 2)


class Reduce:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def hostile(target):
    return [
        Reduce(os.system, f"touch {target}"),
        Reduce(builtins.eval, f"open({str(target)!r}, 'w')"),
        Reduce(builtins.exec, f"open({str(target)!r}, 'w')"),
        Reduce(builtins.open, str(target), "w"),
        Reduce(builtins.__import__, "antigravity"),
        Reduce(pathlib.Path.touch, pathlib.PurePosixPath(target)),
        Reduce(np.save, str(target), np.zeros(1)),
        Reduce(torch.save, {}, str(target)),
        Reduce(argparse.FileType("w").__class__, "w"),
    ]


NAMES = ["system", "eval", "exec", "open", "import", "touch", "np.save", "torch.save", "FileType"]


@pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)
def test_a_hostile_pickle_runs_nothing(write, tmp_path, which):
    target = tmp_path / "owned"
    path = write({"state_dict": WEIGHTS, "x": hostile(target)[which]})
    try:
        loaded = load_pickle(path)
    except ImportFailedError:
        pass
    else:  # a name inside a helper package: swallowed, not called
        assert isinstance(loaded["x"], StandIn)
    assert not list(tmp_path.glob("owned*"))


def test_a_refused_class_is_named(write):
    with pytest.raises(ImportFailedError, match=r"(posix|os)\.?.*system|blocked"):
        load_pickle(write(Reduce(os.system, "true")))


def test_a_whole_pickled_model_is_explained(write):
    with pytest.raises(ImportFailedError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        load_pickle(write(torch.nn.Linear(1, 1)))


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04 broken", b"\x80\x02", struct.pack("<Q", 2**60), b"\x80\x05}."],
)
def test_unreadable_files_say_so(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ImportFailedError, match=r"model\.pth: .*not a PyTorch file"):
        load_pickle(path)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_files_are_refused(write, keep):
    path = write({"w": torch.randn(100, 100)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ImportFailedError):
        load_pickle(path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "no.pth")
