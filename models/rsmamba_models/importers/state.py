"""Getting from what people have (files, wrapped dicts, arrays) to a plain dict of tensors."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsmamba_models.errors import ImportFailedError
from rsmamba_models.importers.unpickle import load_pickle

_WRAPPERS = ("state_dict", "net", "model", "module", "model_state_dict", "params")
# Where training frameworks keep moving averages of the weights, and the counters beside them.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_COUNTERS = ("steps", "n_averaged", "num_updates", "decay")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_state(
    source: Mapping[str, Any] | str | os.PathLike[str], weights: str = "model"
) -> dict[str, Tensor]:
    """Official keys to CPU tensors (float32 or integers), wrappers and prefixes removed.

    Args:
        source: A state dict, in wrappers or not, or a file that holds one.
        weights: ``model``, what the official code would load from the file; or ``ema``, the moving
            averages. mmengine has already put the averages in the model's place when it saves, so
            for its files the two are the same.

    Raises:
        ImportFailedError: Unreadable, not a state dict, or without averages.
    """
    if weights not in ("model", "ema"):
        raise ImportFailedError(f"weights is 'model' or 'ema', not {weights!r}")
    state: Any = source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        state = _load_safetensors(path) if path.suffix == ".safetensors" else load_pickle(path)
    holder = state
    state = _unwrap(_averages(state) if weights == "ema" else state)
    if isinstance(state, nn.Module):
        raise ImportFailedError("a state dict is wanted, not a module: pass model.state_dict()")
    if not isinstance(state, Mapping) or not state:
        raise ImportFailedError(
            f"no state dict was found: got {type(state).__name__}, wanted keys to tensors, bare "
            f"or under one of {', '.join(_WRAPPERS)}{_hint(holder)}"
        )
    tensors = {str(key): _tensor(str(key), value) for key, value in state.items()}
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in tensors)), None):
        tensors = {key[len(prefix) :]: value for key, value in tensors.items()}
    return tensors


def check_keys(found: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Refuse a state dict whose keys are not exactly the wanted ones.

    Raises:
        ImportFailedError: Names the first missing and left-over keys.
    """
    found, wanted = set(found), set(wanted)
    problems = []
    if missing := sorted(wanted - found):
        problems.append(f"missing: {several(missing)}")
    if extra := sorted(found - wanted):
        problems.append(f"not part of it: {several(extra)}")
    if problems:
        raise ImportFailedError(f"the state dict does not fit {what}; keys {'; '.join(problems)}")


def check_shape(key: str, found: Tensor, wanted: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape.

    Raises:
        ImportFailedError: Names the key and both shapes.
    """
    if tuple(found.shape) != wanted:
        raise ImportFailedError(
            f"{key} has shape {tuple(found.shape)}, the architecture that the other keys describe "
            f"wants {wanted}"
        )


def shape_of(state: Mapping[str, Tensor], key: str, axes: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor that has to be there, with so many axes, none of them empty.

    Raises:
        ImportFailedError: No such key, or another number of axes.
    """
    if key not in state:
        raise ImportFailedError(f"this is no {what} state dict: it has no key {key}")
    shape = tuple(state[key].shape)
    if len(shape) != axes or 0 in shape:
        raise ImportFailedError(f"{key} has shape {shape}, wanted {axes} non-empty axes")
    return shape


def check_config(
    config: Mapping[str, Any],
    known: Mapping[str, tuple[Any, ...]],
    others: Iterable[str],
    what: str,
) -> None:
    """Refuse configuration terms that are not known, or not what the state dict says.

    Args:
        config: Terms to values.
        known: For each term the values that agree with the state dict.
        others: Further terms there are, for the message.
        what: The family's name.

    Raises:
        ImportFailedError: Names the term, and what was expected.
    """
    for name, value in config.items():
        if name not in known:
            terms = ", ".join([*others, *known])
            raise ImportFailedError(f"{what} has no configuration term {name!r}; known: {terms}")
        if (list(value) if isinstance(value, tuple) else value) not in known[name]:
            wanted = " or ".join(map(repr, known[name]))
            raise ImportFailedError(f"{name} is {wanted} in this state dict, not {value!r}")


def load_renamed(
    module: nn.Module,
    state: Mapping[str, Tensor],
    official: Callable[[str], str],
    what: str,
    convert: Callable[[str, Tensor], Tensor] = lambda key, tensor: tensor,
) -> None:
    """Load an official state dict into a module of ours; every key of both is used.

    Args:
        module: Receives the tensors, in its own dtypes.
        state: Official keys to tensors.
        official: Official name of a parameter or buffer of ours.
        what: What the module is, for messages.
        convert: Given our name and the official tensor, the tensor as we keep it.

    Raises:
        ImportFailedError: Keys missing, left over, or of another shape.
    """
    ours = module.state_dict()
    names = {key: official(key) for key in ours}
    check_keys(state, names.values(), what)
    tensors = {}
    for key, value in ours.items():
        found = convert(key, state[names[key]])
        check_shape(names[key], found, tuple(value.shape))
        tensors[key] = found.to(value.dtype)
    module.load_state_dict(tensors)


def several(names: list[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _unwrap(state: Any) -> Any:
    for _ in range(8):  # wrappers nest, but not for ever
        if not isinstance(state, Mapping):
            break
        inner = [state[w] for w in _WRAPPERS if isinstance(state.get(w), Mapping)]
        if not inner:
            return state if any(_is_array(v) for v in state.values()) else None
        state = inner[0]
    return state


def _averages(holder: Any) -> Any:
    """What holds the averaged weights."""
    if not isinstance(holder, Mapping):
        return holder
    if "ema_state_dict" in holder and _is_mmengine(holder):
        return holder["state_dict"]
    for name in _AVERAGES:
        if isinstance(holder.get(name), Mapping):
            return {k: v for k, v in holder[name].items() if k not in _COUNTERS}
    held = several(sorted(map(str, holder)))
    raise ImportFailedError(
        f"there are no averaged weights: the file holds {held}, wanted are tensors under one of "
        f"{', '.join(_AVERAGES)}; weights='model' takes the model's own"
    )


def _is_mmengine(holder: Mapping[str, Any]) -> bool:
    meta = holder.get("meta")
    return "message_hub" in holder or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def _hint(holder: Any) -> str:
    there = isinstance(holder, Mapping) and any(
        isinstance(holder.get(n), Mapping) for n in _AVERAGES
    )
    return "; averaged weights are there, though: weights='ema' takes them" if there else ""


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _tensor(key: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        raise ImportFailedError(f"{key} holds a {type(value).__name__}, not a tensor")
    try:
        tensor = torch.as_tensor(value).detach()
        if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
            raise ImportFailedError(
                f"{key} is a {tensor.dtype} of layout {tensor.layout}: not read"
            )
        if tensor.is_meta or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ImportFailedError(
                f"{key} of shape {tuple(tensor.shape)} has no values of its own"
            )
        return tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()
    except (TypeError, RuntimeError) as error:
        raise ImportFailedError(f"{key}: {error}") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ImportFailedError(f"{path}: not a readable safetensors file ({error})") from error
    return tensors
