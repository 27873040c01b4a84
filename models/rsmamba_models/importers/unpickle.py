"""Reading other people's ``.pth`` files without running a byte of what is in them.

PyTorch's weights-only unpickler knows tensors and plain containers and refuses every other class.
Training frameworks, though, leave a few helper objects beside the weights (logs, configurations,
argument namespaces). Those classes, named here, are replaced by inert stand-ins that swallow their
arguments; nothing is imported for them. Every other name is refused.

Two things that the unpickler leaves open are closed here. It believes the sizes that a file
declares for its storages: members must be stored as they are, and they are mapped, so that none
reaches beyond the file. And it lets a file set attributes of dictionaries: what is returned holds
plain ones.
"""

import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import torch

from rsmamba_models.errors import ImportFailedError

# Packages whose classes are known to lie beside weights in published files.
_HELPERS = (
    "addict",
    "argparse",
    "datetime",
    "detectron2",
    "easydict",
    "fvcore",
    "lightning",
    "lightning_fabric",
    "mmcls",
    "mmcv",
    "mmdet",
    "mmengine",
    "mmpretrain",
    "mmseg",
    "ml_collections",
    "numpy",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "timm",
    "yacs",
)
_HELPER_NAMES = {
    "collections.defaultdict",
    "collections.deque",
    "types.SimpleNamespace",
    "typing.Any",
    "typing.Dict",
    "typing.List",
    "typing.Union",
    *(f"builtins.{n}" for n in ("bool", "bytes", "dict", "float", "frozenset", "int", "list")),
    *(f"builtins.{n}" for n in ("object", "range", "slice", "str", "tuple", "type")),
    "builtins.getattr",  # names methods, such as those in old logs of mmengine
    "copyreg._reconstructor",
    "torch.torch_version.TorchVersion",
}
# Subclasses of dict: the unpickler fills only plain dicts.
_DICTS = {"ConfigDict", "Dict", "EasyDict", "CfgNode", "AttributeDict", "defaultdict"}
_LISTS = {"deque"}


class StandIn:
    """Takes the place of a helper object; holds nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "StandIn":
        """Swallow the arguments of the class that it replaces."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing to keep."""

    def __setstate__(self, _state: Any) -> None:
        """Nothing to keep."""


def load_pickle(path: str | Path) -> Any:
    """The objects in a PyTorch file (zip or legacy format), helpers replaced by ``StandIn``.

    Raises:
        ImportFailedError: Not such a file, damaged, or it names a class that is neither a
            tensor's nor a known helper's.
        FileNotFoundError: No such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(path)
    names: set[str] = set()
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _check_members(path)
        names |= _global_names(path)
        stand_ins: list[Any] = [
            (_stand_in(name), name) for name in sorted(names) if _is_helper(name)
        ]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return _plain(loaded)
    except ImportFailedError:
        raise
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise ImportFailedError(f"{path}: {_reason(error, names)}") from error


def _check_members(path: Path) -> None:
    """Refuse an archive whose members would be larger in memory than on disk."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ImportFailedError(
            f"{path}: {packed[0]} is compressed, which PyTorch's files never are; not read"
        )
    declared, size = sum(m.file_size for m in members), path.stat().st_size
    if declared > size:
        raise ImportFailedError(
            f"{path}: its members declare {declared} bytes, the file has {size}; not read"
        )


def _plain(value: Any) -> Any:
    """The same with plain dictionaries, whatever attributes the file had given them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in dict.items(value)}
    if type(value) in (list, tuple):
        return type(value)(_plain(inner) for inner in value)
    return value


def _stand_in(name: str) -> Any:
    short = name.rpartition(".")[2]
    if short in _DICTS:
        return OrderedDict if short != "defaultdict" else _empty_dict
    if short in _LISTS:
        return _empty_list
    return type(short, (StandIn,), {})


def _empty_dict(*_args: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _empty_list(*_args: Any) -> list[Any]:
    return []


def _is_helper(name: str) -> bool:
    return name in _HELPER_NAMES or name.partition(".")[0] in _HELPERS


def _reason(error: Exception, names: set[str]) -> str:
    text = str(error)
    for name in sorted(names):
        short = name.removeprefix("builtins.")  # as the message has it
        if not _is_helper(name) and (f"GLOBAL {name} " in text or f"GLOBAL {short} " in text):
            return (
                f"it names {name}, which is neither a tensor's class nor a known helper's, so it "
                "is not loaded; save only the state dict (torch.save(model.state_dict(), ...)) "
                "with the code that made the file, and import that"
            )
    return (
        f"not a PyTorch file that can be read safely ({text.splitlines()[0] if text else error!r})"
    )


def _global_names(path: Path) -> set[str]:
    """Every ``module.name`` that a file's pickles refer to, read without unpickling."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:  # magic number, version, system, objects, storage keys
            return set().union(*(_names_in(file) for _ in range(5)))
    names: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith("data.pkl"):
                with archive.open(member) as file:
                    names |= _names_in(file)
    return names


def _names_in(file: IO[bytes]) -> set[str]:
    names = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            # The names of Python 2, as the unpickler maps them.
            if (module, name) in _compat_names():
                module, name = _compat_names()[module, name]
            else:
                module = _compat_modules().get(module, module)
            names.add(f"{module}.{name}")
    return names


def _compat_names() -> dict[tuple[str, str], tuple[str, str]]:
    return pickle._compat_pickle.NAME_MAPPING  # type: ignore[attr-defined,no-any-return]


def _compat_modules() -> dict[str, str]:
    return pickle._compat_pickle.IMPORT_MAPPING  # type: ignore[attr-defined,no-any-return]
