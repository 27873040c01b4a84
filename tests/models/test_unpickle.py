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

from rsmamba_models import ImportFailedError
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
