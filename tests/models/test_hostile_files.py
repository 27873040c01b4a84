"""Weights files made to do harm: each gives its tensors and inert objects, or is refused."""

import pickle
import sys
import tarfile
import zipfile

import hostile
import numpy as np
import pytest
import torch
from hostile import number, state, tensor, text

from rsmamba_models import ImportFailedError
from rsmamba_models.importers.state import read_state
from rsmamba_models.importers.unpickle import StandIn, load_pickle

W = torch.tensor([1.0, 2.0, 3.0, 4.0])
FORMATS = {"zip": hostile.archive, "legacy": hostile.legacy}


@pytest.fixture(params=FORMATS)
def write(request, tmp_path):
    return lambda pickled: FORMATS[request.param](tmp_path / "model.pth", pickled)


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module that leaves a file behind when it is imported or when its function is called."""
    owned = tmp_path / "owned"
    folder = tmp_path / "path"
    folder.mkdir()
    source = f"def harm(*a, **k):\n    open({str(owned)!r}, 'w')\nharm()\n"
    (folder / "canary.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    yield
    assert not owned.exists()
    assert "canary" not in sys.modules


def inert(path):
    """Load; the weights are right and all else is plain or a stand-in, or the file is refused."""
    try:
        loaded = load_pickle(path)
    except ImportFailedError:
        return "refused"
    assert type(loaded) is dict
    assert torch.equal(loaded["w"], W)
    assert isinstance(loaded["x"], StandIn | dict | list | tuple | str | None), loaded["x"]
    return "inert"


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def both(x):
    return state(w=tensor(), x=x)


def test_the_plain_file_is_read(write):
    assert torch.equal(load_pickle(write(state(w=tensor())))["w"], W)


SYSTEM = text("touch owned")
CALLS = {
    "os.system": call("os", "system", SYSTEM),
    "posix.system": call("posix", "system", SYSTEM),
    "python 2's eval": call("__builtin__", "eval", SYSTEM),
    "builtins.eval": call("builtins", "eval", SYSTEM),
    "builtins.__import__": call("builtins", "__import__", text("canary")),
    "a module of the user's": call("canary", "harm"),
    "importlib": call("importlib", "import_module", text("canary")),
    "subprocess": call("subprocess", "Popen", SYSTEM),
    "codecs": call("codecs", "open", text("owned"), text("w")),
    "a codec": call("_codecs", "encode", text("x"), text("canary")),
    "runpy": call("runpy", "run_path", text("canary.py")),
    "torch.load": call("torch", "load", text("owned")),
    "torch.hub": call("torch.hub", "load", text("canary")),
    "torch's os": call("torch.serialization", "os.system", SYSTEM),
    "numpy's load": call("numpy", "load", text("owned"), text("r"), b"\x88"),
    "numpy's os": call("numpy", "os.system", SYSTEM),
    "numpy.f2py": call("numpy.f2py.capi_maps", "eval", SYSTEM),
    "globals of a helper": call("argparse", "Namespace.__init__.__globals__"),
    "a helper's module": call("argparse", "_os.system", SYSTEM),
    "getattr of a helper": call("builtins", "getattr", b"cargparse\nNamespace\n", text("__init__")),
    "getattr of a module": call("builtins", "getattr", call("builtins", "__import__", text("os"))),
    "getattr, called": b"(" + text("touch owned") + b"t",
    "partial": call("functools", "partial", b"cos\nsystem\n", SYSTEM),
    "a new object": b"ccanary\nharm\n)\x81",
    "a new helper": b"cargparse\nNamespace\n)\x81",
    "a new StandIn": b"crsmamba_models.importers.unpickle\nStandIn\n)\x81",
}
GETATTR = call("builtins", "getattr", b"cargparse\nNamespace\n", text("x"))
CALLS["getattr, called"] = GETATTR + CALLS["getattr, called"] + b"R"


@pytest.mark.parametrize("x", CALLS.values(), ids=CALLS)
def test_calls(write, canary, x):
    inert(write(both(x)))


def test_names_of_methods_are_inert(write):
    assert inert(write(both(GETATTR))) == "inert"


NAMESPACE = call("argparse", "Namespace")
ORDERED = call("collections", "OrderedDict")
BUILDS = {
    "a stand-in's class": NAMESPACE + b"}" + text("__class__") + b"ccanary\nharm\nsb",
    "a stand-in's __setstate__": NAMESPACE + b"}" + text("__setstate__") + b"Nsb",
    "slots": NAMESPACE + b"N}" + text("__class__") + b"Ns\x86b",
    "an ordered dict's items": ORDERED + b"}" + text("items") + b"Nsb",
    "an ordered dict's class": ORDERED + b"}" + text("__class__") + b"Nsb",
    "an ordered dict of no dict": ORDERED + text("abc") + b"b",
    "a function": b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("__code__") + b"Nsb",
    "a class": b"cargparse\nNamespace\n}" + text("__setstate__") + b"Nsb",
    "a tensor of nothing": tensor() + b"(Nt" + b"b",
    "a string": text("abc") + b"}b",
}


@pytest.mark.parametrize("x", BUILDS.values(), ids=BUILDS)
def test_states_of_objects(write, canary, x):
    inert(write(both(x)))


def test_a_class_of_stand_ins_cannot_be_rewired(write):
    first = b"cargparse\nNamespace\n}" + text("__setstate__") + b"Nsb0" + NAMESPACE
    inert(write(both(first)))
    assert callable(StandIn().__setstate__)


def test_dictionaries_come_back_plain(write):
    weights = call("collections", "OrderedDict") + b"(" + text("w") + tensor() + b"u"
    rewired = weights + b"}" + text("items") + number(5) + b"sb"
    assert torch.equal(read_state(write(b"\x80\x02" + rewired + b"."))["w"], W)


OPCODES = {
    "INST": b"(" + SYSTEM + b"ios\nsystem\n",
    "INST of a helper": b"(iargparse\nNamespace\n",
    "OBJ": b"(cos\nsystem\n" + SYSTEM + b"o",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93",
    "NEWOBJ_EX": b"cargparse\nNamespace\n)}\x92",
    "PERSID": b"Pstorage\n",
    "a persistent name": text("touch owned") + b"Q",
    "a persistent number": number(5) + b"Q",
    "another persistent kind": b"(" + text("module") + text("canary") + b"tQ",
    "a memo that is not there": b"h\x63",
    "a far memo": b"N" + b"r\xff\xff\xff\x7f",
    "a memo as dict": b"}q\x05" + text("a") + b"h\x05s",  # the dict holds itself
    "a mark too few": b"t",
    "an empty stack": b"0" * 8,
    "a long string": b"X\xff\xff\xff\x7fabc",
    "a very long string": b"\x8d" + b"\xff" * 7 + b"\x7fabc",
    "a long number": b"\x8b\xff\xff\xff\x7f1",
    "no pickle": b"\xff\xfe",
    "deep": b"(" * 3000 + b"t" * 3000,
    "very deep": b"]" + b"]a" * 3000,
}


@pytest.mark.parametrize("x", OPCODES.values(), ids=OPCODES)
def test_opcodes(write, canary, x):
    inert(write(both(x)))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_later_protocols_are_read_or_refused(tmp_path, protocol):
    path = tmp_path / "model.pth"
    torch.save({"w": W}, path, pickle_protocol=protocol)
    try:
        assert torch.equal(load_pickle(path)["w"], W)
    except ImportFailedError as error:
        assert "model.pth" in str(error)


class TestArrays:
    @pytest.mark.parametrize(
        "array",
        [np.arange(3), np.array([object], dtype=object), np.array("a"), np.zeros(2, "i4,f8")],
        ids=["numbers", "objects", "text", "records"],
    )
    def test_beside_the_weights_they_are_swallowed(self, tmp_path, array):
        torch.save({"state_dict": {"w": W}, "x": array}, tmp_path / "model.pth")
        assert torch.equal(read_state(tmp_path / "model.pth")["w"], W)

    def test_as_weights_they_are_refused(self, tmp_path):
        torch.save({"w": W, "v": np.arange(3.0)}, tmp_path / "model.pth")
        with pytest.raises(ImportFailedError, match="v holds a"):
            read_state(tmp_path / "model.pth")

    def test_objects_in_a_dict_are_refused(self):
        with pytest.raises(ImportFailedError, match=r"^w: "):
            read_state({"w": np.array([object], dtype=object)})


SIZES = {
    "a storage beyond the file": {"declared": 10**6, "shape": (10**6,)},
    "a storage of terabytes": {"declared": 2**40, "shape": (2**40,)},
    "a tensor beyond its storage": {"shape": (1000,)},
    "a tensor of terabytes": {"shape": (2**40,)},
    "an offset beyond": {"offset": 100},
    "an offset before": {"offset": -1},
    "a stride beyond": {"stride": (1000,)},
    "a stride before": {"stride": (-1,)},
    "a value repeated for ever": {"shape": (10**12,), "stride": (0,)},
    "a storage that is not there": {"key": "7"},
    "a storage by a path": {"key": "../data.pkl"},
    "sizes that overflow": {"shape": (2**32, 2**32), "stride": (2**32, 1)},
}


@pytest.mark.parametrize("lie", SIZES.values(), ids=SIZES)
def test_sizes_that_are_not_true(tmp_path, lie):
    path = hostile.archive(tmp_path / "model.pth", state(w=tensor(**lie)))
    with pytest.raises(ImportFailedError):
        read_state(path)


@pytest.mark.parametrize("lie", [lie for lie in SIZES.values() if "key" not in lie])
def test_sizes_that_are_not_true_in_old_files(tmp_path, lie):
    path = hostile.legacy(tmp_path / "model.pth", state(w=tensor(**lie)))
    with pytest.raises(ImportFailedError):
        read_state(path)


def test_an_old_file_that_promises_more_storage_than_it_holds(tmp_path):
    pickled = state(w=tensor(declared=10**9, shape=(10**9,)))
    path = hostile.legacy(tmp_path / "model.pth", pickled, declared=10**9)
    with pytest.raises(ImportFailedError):
        load_pickle(path)


def test_compressed_members_are_refused(tmp_path):
    path = hostile.archive(
        tmp_path / "bomb.pth",
        state(w=tensor(declared=10**7, shape=(10**7,))),
        {"0": bytes(4 * 10**7)},
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 10**5
    with pytest.raises(ImportFailedError, match="compressed"):
        load_pickle(path)


def test_overlapping_members_are_refused(tmp_path):
    path = hostile.archive(tmp_path / "model.pth", state(w=tensor()))
    content = path.read_bytes()
    at = content.rindex(b"archive/data/0") - 46  # its entry in the central directory
    entry = bytearray(content[at : at + 46])
    entry[20:24] = entry[24:28] = (2**30).to_bytes(4, "little")
    path.write_bytes(content[:at] + bytes(entry) + content[at + 46 :])
    with pytest.raises(ImportFailedError, match="declare"):
        load_pickle(path)


def test_tar_files_are_refused(tmp_path, canary):
    path = tmp_path / "model.pth"
    with tarfile.open(path, "w") as file:
        for name in ("storages", "tensors", "pickle"):
            (tmp_path / name).write_bytes(pickle.dumps(0, 2) + b"ccanary\nharm\n(tR.")
            file.add(tmp_path / name, name)
    with pytest.raises(ImportFailedError):
        load_pickle(path)


def test_scripted_models_are_refused(tmp_path):
    path = hostile.archive(tmp_path / "model.pth", state(w=tensor()))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/constants.pkl", b"\x80\x02).")
        file.writestr("archive/code/__torch__.py", "")
    with pytest.raises(ImportFailedError, match="TorchScript"):
        load_pickle(path)


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 2).to_sparse(),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.ones(2, dtype=torch.complex64),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda: torch.ones(1).expand(5),
    ],
    ids=["sparse", "meta", "complex", "quantised", "expanded"],
)
def test_tensors_that_are_no_weights_are_refused(make):
    with pytest.raises(ImportFailedError, match=r"^w"):
        read_state({"v": W, "w": make()})
