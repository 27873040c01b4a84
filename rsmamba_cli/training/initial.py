"""Where the weights of a run begin: another checkpoint, or an encoder trained elsewhere."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from rsmamba_cli.errors import CheckpointError
from rsmamba_models import CheckpointMeta, ModelsError, import_official, load_checkpoint
from rsmamba_models.fusion import EarlyFusion
from rsmamba_models.registry import get_entry

State = Mapping[str, Tensor]


def load_initial(path: Path) -> tuple[nn.Module, CheckpointMeta]:
    """Load the checkpoint that a run starts from.

    Raises:
        CheckpointError: it does not exist or cannot be read.
    """
    try:
        return load_checkpoint(path)
    except (ModelsError, OSError) as error:
        raise CheckpointError(str(error)) from error


def adopt_weights(model: nn.Module, source: nn.Module, origin: str) -> list[str]:
    """Copy the weights of ``source`` into ``model``, which may have other bands or classes.

    Tensors of the same shape are copied. Where the model takes other bands, the first convolution
    keeps the bands both have and starts further ones at the mean of the old; where it has other
    classes, the last layer starts anew; so does a part that the source has not at all (an auxiliary
    head, the fusion of two dates). For two modalities whose bands are stacked, the source may be a
    model for one image: its bands come first.

    Returns:
        A line for everything that was not simply copied.

    Raises:
        CheckpointError: the two are not the same architecture.
    """
    model, source = _network(model), _network(source)
    old, new = source.state_dict(), model.state_dict()
    mine, theirs = _parts(new), _parts(old)
    notes = [f"{origin} has no {part}: it starts anew" for part in sorted(mine - theirs)]
    notes += [f"{origin} has a {part}, which is left out" for part in sorted(theirs - mine)]
    shared, bands = mine & theirs, _bands(model)
    strange = sorted(n for n in old.keys() ^ new.keys() if n.split(".")[0] in shared)
    if strange or not shared:
        raise CheckpointError(
            f"{origin} holds another architecture ({source.architecture}); "
            f"{len(strange)} tensors do not match, the first is {strange[0] if strange else '-'}. "
            "To take its encoder alone, use --encoder-weights."
        )
    for name, tensor in new.items():
        if name not in old:
            continue
        given = old[name]
        fitted = fit_tensor(given, tensor, bands)
        if fitted is not None:
            new[name] = fitted
            if fitted is not given:
                notes.append(_other_bands(origin, name, given, tensor))
        elif given.shape[1:] == tensor.shape[1:]:
            notes.append(
                f"{origin} has {given.shape[0]} outputs, this model {tensor.shape[0]}: "
                f"{name} starts anew"
            )
        else:
            raise CheckpointError(
                f"{origin} holds another size of architecture: {name} is {tuple(given.shape)}, "
                f"here {tuple(tensor.shape)}."
            )
    model.load_state_dict(new)
    return notes


def adopt_encoder(model: nn.Module, path: Path, partial: bool) -> list[str]:
    """Copy an encoder's weights into ``model.encoder``; everything else of the file is left out.

    Args:
        model: changed in place.
        path: a checkpoint of this toolkit with any head, or an official one of the model's family
            (segmentation, classification, or the encoder alone).
        partial: take what fits where not everything does.

    Returns:
        A line for everything that was not simply copied.

    Raises:
        CheckpointError: the file cannot be read, the model has no encoder, or the two do not fit
            and ``partial`` is False, or nothing fits.
    """
    model = _network(model)
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise CheckpointError(f"{model.architecture} has no encoder to take weights for.")
    old, new = _encoder_state(path, str(model.architecture)), encoder.state_dict()
    bands = _bands(model)
    fitted = {name: fit_tensor(old[name], new[name], bands) for name in new if name in old}
    taken = {name: tensor for name, tensor in fitted.items() if tensor is not None}
    missing = sorted(new.keys() - taken.keys())
    unused = sorted(old.keys() - taken.keys())
    if (missing or unused) and (not partial or not taken):
        raise CheckpointError(
            f"{path} does not fit the encoder of {model.architecture}: {len(taken)} of {len(new)} "
            f"tensors do, {_some(missing)} would start anew and {_some(unused)} be left out. "
            "Choose the model that the file is of, or take what fits with "
            "--encoder-weights-partial."
        )
    notes = [
        _other_bands(str(path), name, old[name], new[name])
        for name, tensor in taken.items()
        if tensor is not old[name]
    ]
    if missing:
        notes.append(f"{path}: {_some(missing)} of the encoder are not in it and start anew")
    encoder.load_state_dict({**new, **taken})
    return notes


def fit_tensor(given: Tensor, wanted: Tensor, bands: Collection[int]) -> Tensor | None:
    """``given`` itself where the shapes agree, for another number of bands adapted; else None.

    Args:
        given: what there is.
        wanted: of the shape that is needed.
        bands: numbers of bands that the model takes. A convolution of another number starts the
            bands that it did not have at the mean of the old.
    """
    if given.shape == wanted.shape:
        return given
    bands_differ = (
        given.ndim == 4
        and wanted.shape[1] in bands
        and given.shape[0] == wanted.shape[0]
        and given.shape[2:] == wanted.shape[2:]
    )
    if not bands_differ:
        return None
    common = min(given.shape[1], wanted.shape[1])
    fitted = given.mean(dim=1, keepdim=True).expand_as(wanted).clone()
    fitted[:, :common] = given[:, :common]
    return fitted


def _network(model: nn.Module) -> nn.Module:
    """What the bands of stacked modalities go through; any other model itself."""
    return model.network if isinstance(model, EarlyFusion) else model


def _bands(model: nn.Module) -> Collection[int]:
    """Numbers of bands of a model's images."""
    bands = model.in_chans
    return (bands,) if isinstance(bands, int) else tuple(bands)  # type: ignore[arg-type]


def _other_bands(origin: str, name: str, given: Tensor, wanted: Tensor) -> str:
    common = min(given.shape[1], wanted.shape[1])
    return (
        f"{origin} takes {given.shape[1]} bands, this model {wanted.shape[1]}: the first "
        f"{common} keep their weights in {name}"
    )


def _encoder_state(path: Path, architecture: str) -> State:
    """The encoder's tensors of a file, under our names.

    Raises:
        CheckpointError: it cannot be read, or holds no encoder of this family.
    """
    family = get_entry(architecture).family
    try:
        if path.suffix == ".safetensors" and _is_ours(path):
            source = load_checkpoint(path)[0]
        else:
            source = _official(path, family)
    except (ModelsError, OSError) as error:
        raise CheckpointError(f"{path} holds no encoder of {family}: {error}") from error
    # What holds an encoder alone is imported as one.
    encoder = getattr(source, "encoder", source)
    return encoder.state_dict() if isinstance(encoder, nn.Module) else {}


def _official(path: Path, family: str) -> nn.Module:
    """An official checkpoint, its averaged weights where it holds some."""
    try:
        return import_official(path, family=family, weights="ema")
    except ModelsError:  # it has none, or it is no such file, which the next line says
        return import_official(path, family=family)


def _is_ours(path: Path) -> bool:
    """Whether a safetensors file is a checkpoint of this toolkit."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return "rsmamba" in (file.metadata() or {})


def _parts(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _some(names: list[str]) -> str:
    """A count, and the first names."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} ({shown})" if names else "none"
