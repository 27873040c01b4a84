"""One ``.safetensors`` file holds the weights and, as JSON under ``rsmamba``, their metadata.

Loading never executes anything: safetensors is a header and raw numbers, and the metadata is
validated field by field.
"""

import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rsmamba_models.checkpoint_meta import (
    FORMAT,
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    Transform,
)
from rsmamba_models.errors import ArgumentsError, CheckpointFormatError, ModelsError
from rsmamba_models.registry import create_model

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "CheckpointMeta",
    "ClassInfo",
    "InputSpec",
    "Transform",
    "load_checkpoint",
    "read_meta",
    "save_checkpoint",
    "stored_dtype",
]

_KEY = "rsmamba"
_HEADER_LIMIT = 100_000_000  # safetensors' own


def save_checkpoint(
    path: str | os.PathLike[str],
    model: "nn.Module",
    meta: CheckpointMeta,
    dtype: "torch.dtype | None" = None,
) -> CheckpointMeta:
    """Write a checkpoint; the file appears under its name only when complete.

    Args:
        path: Where to; an existing file is replaced.
        model: A model of this package.
        meta: Its description; ``sha256`` is filled in.
        dtype: How floating-point tensors are stored: float32 (default) or float16. Counters keep
            their integers.

    Returns:
        The metadata as written.

    Raises:
        ArgumentsError: ``meta`` describes another model, or ``dtype`` is neither.
        CheckpointFormatError: A weight is not finite, or not after the cast.
    """
    import torch
    from safetensors.torch import save_file

    dtype = torch.float32 if dtype is None else dtype
    if dtype not in (torch.float32, torch.float16):
        raise ArgumentsError(f"a checkpoint is stored in float32 or float16, not {dtype}")
    _check_match(model, meta)
    tensors = {}
    for name, tensor in model.state_dict().items():
        stored = tensor.detach().cpu()
        if stored.is_floating_point():
            stored = stored.to(dtype)
            if not torch.isfinite(stored).all():
                raise CheckpointFormatError(_not_finite(name, tensor, dtype))
        tensors[name] = stored.contiguous().clone()
    meta = meta.model_copy(update={"format": FORMAT, "sha256": _digest(tensors)})
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        save_file(tensors, temporary, {_KEY: json.dumps(meta.model_dump(mode="json"))})
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return meta


def load_checkpoint(
    path: str | os.PathLike[str], map_location: "torch.device | str" = "cpu"
) -> "tuple[nn.Module, CheckpointMeta]":
    """Read a checkpoint and verify it.

    Args:
        path: A file that ``save_checkpoint`` wrote.
        map_location: The device to put the model on.

    Returns:
        The model, float32 and in eval mode, and its metadata.

    Raises:
        CheckpointFormatError: Not a checkpoint, damaged, or of a newer format.
        FileNotFoundError: No such file.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    meta = read_meta(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointFormatError(f"{path}: the weights cannot be read ({error})") from error
    if _digest(stored) != meta.sha256:
        raise CheckpointFormatError(
            f"{path}: the weights do not match their checksum; the file is damaged or was edited"
        )
    try:
        with torch.device("meta"):  # the file's size, not its metadata, bounds what is allocated
            model = create_model(meta.architecture, **meta.arguments)
        _check_match(model, meta)
    except (ModelsError, ArithmeticError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointFormatError(f"{path}: {error}") from error
    _check_tensors(path, stored, model)
    # Copies: in the file weights lie anywhere, and kernels round by how their operands are aligned.
    tensors = {
        name: t.to(map_location, torch.float32 if t.is_floating_point() else t.dtype, copy=True)
        for name, t in stored.items()
    }
    model.load_state_dict(tensors, assign=True)
    return model.eval(), meta


def read_meta(path: str | os.PathLike[str]) -> CheckpointMeta:
    """Read a checkpoint's metadata only; neither torch nor the weights are touched.

    Raises:
        CheckpointFormatError: Not a checkpoint, damaged, or of a newer format.
        FileNotFoundError: No such file.
    """
    text = _header(Path(path)).get("__metadata__", {})
    if not isinstance(text, dict) or not isinstance(text.get(_KEY), str):
        raise CheckpointFormatError(
            f"{path}: a safetensors file without {_KEY!r} metadata, so not a checkpoint of this "
            "toolkit; official weights are converted by `rsmamba checkpoint import`"
        )
    try:
        data = json.loads(text[_KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{path}: its metadata is not JSON ({error})") from error
    version = data.get("format") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointFormatError(f"{path}: its metadata names no format version")
    if version > FORMAT:
        raise CheckpointFormatError(
            f"{path}: checkpoint format {version} is newer than this version of rsmamba, which "
            f"reads up to {FORMAT}; install a newer rsmamba"
        )
    try:
        return CheckpointMeta.model_validate(data)
    except (ValidationError, RecursionError) as error:
        raise CheckpointFormatError(f"{path}: metadata that makes no sense: {error}") from error


def stored_dtype(path: str | os.PathLike[str]) -> "torch.dtype":
    """How a checkpoint stores its floating-point tensors: float16 or float32.

    Raises:
        CheckpointFormatError: Not a safetensors file.
        FileNotFoundError: No such file.
    """
    import torch

    tensors = (v for k, v in _header(Path(path)).items() if k != "__metadata__")
    kinds = {str(entry.get("dtype")) for entry in tensors}
    return torch.float16 if "F16" in kinds else torch.float32


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of length, then the text."""
    if path.is_dir():
        raise CheckpointFormatError(f"{path}: a folder, not a checkpoint file")
    with path.open("rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= size <= min(_HEADER_LIMIT, path.stat().st_size - 8):
            # Only then: the length of a sound header may well begin with a pickle's first byte.
            if prefix[:2] == b"PK" or prefix[:1] == b"\x80":
                raise CheckpointFormatError(
                    f"{path}: a PyTorch pickle, not a checkpoint of this toolkit; convert it by "
                    "`rsmamba checkpoint import`"
                )
            raise CheckpointFormatError(f"{path}: not a safetensors file, or a truncated one")
        text = file.read(size)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{path}: its safetensors header is damaged") from error
    if not isinstance(header, dict):
        raise CheckpointFormatError(f"{path}: its safetensors header is damaged")
    return header


def _check_match(model: "nn.Module", meta: CheckpointMeta) -> None:
    for name in ("architecture", "arguments", "task", "size_multiple"):
        if getattr(model, name) != getattr(meta, name):
            raise ArgumentsError(
                f"the metadata's {name} is {getattr(meta, name)!r}, "
                f"the model's {getattr(model, name)!r}"
            )
    if meta.logits != model.num_classes:
        raise ArgumentsError(
            f"the metadata lists {len(meta.classes)} classes with a {meta.output}, the model has "
            f"{model.num_classes} logit(s)"
        )
    bands: Any = model.in_chans
    if not isinstance(bands, tuple):
        bands = (bands,) * len(meta.inputs)
    for spec, wanted in zip(meta.inputs, bands, strict=True):
        if len(spec.bands) != wanted:
            raise ArgumentsError(
                f"the metadata's input {spec.name!r} has {len(spec.bands)} bands, the model "
                f"takes {wanted}"
            )


def _check_tensors(
    path: str | os.PathLike[str], stored: "dict[str, Tensor]", model: "nn.Module"
) -> None:
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - stored.keys()):
        raise CheckpointFormatError(f"{path}: weights are missing: {_several(missing)}")
    if extra := sorted(stored.keys() - wanted.keys()):
        raise CheckpointFormatError(f"{path}: weights that fit nowhere: {_several(extra)}")
    for name, tensor in stored.items():
        if (
            tensor.shape != wanted[name].shape
            or tensor.is_floating_point() != wanted[name].is_floating_point()
        ):
            raise CheckpointFormatError(
                f"{path}: {name} is {tuple(tensor.shape)} {tensor.dtype}, the architecture wants "
                f"{tuple(wanted[name].shape)} {wanted[name].dtype}"
            )


def _several(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _not_finite(name: str, tensor: "Tensor", dtype: "torch.dtype") -> str:
    if not tensor.isfinite().all():
        return f"{name} holds values that are not finite; the training has diverged"
    return f"{name} reaches {tensor.abs().max():.3g}, beyond {dtype}; store it in float32"


def _digest(tensors: "dict[str, Tensor]") -> str:
    """SHA-256 over name, dtype, shape and little-endian bytes, sorted by name."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        shape = ",".join(map(str, array.shape))
        sha.update(f"{name}\0{array.dtype.name}\0{shape}\0".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _umask() -> int:
    # There is no way to read it without setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
