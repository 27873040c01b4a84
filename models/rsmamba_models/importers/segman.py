"""SegMAN's official keys (github.com/yunxiangfu2001/SegMAN, 9ced66a).

``build`` takes a segmentation checkpoint (keys under ``backbone.`` and ``decode_head.``), an
encoder from pre-training (bare keys, with or without its classifier), and whatever the loaders of
parts take. The buffers ``rope.angle`` may be missing; where they are there, they must hold the
constants that the architecture fixes.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rsmamba_models.classifier import Classifier
from rsmamba_models.decoders.mmscope import MMSCopE
from rsmamba_models.errors import ArgumentsError, ImportFailedError
from rsmamba_models.importers.segman_shapes import (
    check_encoder,
    check_layer,
    decoder_arguments,
    encoder_arguments,
    size_of,
    stage_arguments,
)
from rsmamba_models.importers.state import load_renamed, read_state, shape_of
from rsmamba_models.registry import create_model
from rsmamba_models.segman import SegMANEncoder, Stage
from rsmamba_models.segman.attention import RotaryPosition
from rsmamba_models.segmenter import Segmenter

_NAME = "SegMAN"
_Module = TypeVar("_Module", bound=nn.Module)
# Ours -> official; all that match apply, in turn.
_BLOCK_RULES = (
    (r"\bposition([12])\.", r"cpe\1."),
    (r"\bscale([12])\.", r"layer_scale\1."),
    (r"\bmlp\.conv\.", "mlp.dwconv."),
    (r"\bmixer\.conv\.", "mixer.dwconv.0."),
    (r"\bmixer\.conv_norm\.", "mixer.dwconv.1."),
    (r"\bmixer\.window_bias$", "mixer.rpb.0"),
    (r"\bmixer\.global_bias$", "mixer.rpb.1"),
    (r"\bmixer\.scan\.", "mixer.ssm."),
    (r"\bmixer\.", "token_mixer."),
    (r"\bx_proj$", "x_proj_weight"),
    (r"\bdt_proj$", "dt_projs_weight"),
    (r"\bdt_bias$", "dt_projs_bias"),
    (r"\bA_log$", "A_logs"),
    (r"\bD$", "Ds"),
)
_DECODER_RULES = (
    (r"^classifier\.", "conv_seg."),
    (r"^project\.0\.", "linear_c2.proj."),
    (r"^project\.1\.", "linear_c3.proj."),
    (r"^project\.2\.", "linear_c4.proj."),
    (r"^fuse\.", "linear_fuse."),
    (r"^short\.", "short_path."),
    (r"^pool\.", "image_pool.1."),
    (r"^halve\.", "conv_downsample_2."),
    (r"^quarter\.", "conv_downsample_4."),
    (r"^reduce\.", "reduce_channels."),
    (r"^context\.", "proj_out."),
    (r"^combine\.", "cat."),
    (r"^(?!block)(.+)\.norm\.", r"\1.bn."),
    (r"^block\.", "vssm."),
)
_CLASSIFIER_RULES = (
    (r"^classifier\.", "classifier.4."),
    (r"^conv\.", "classifier.0."),
    (r"^norm\.", "classifier.1."),
)


def build(state: dict[str, Tensor], *, mode: str = "eval", **config: Any) -> nn.Module:
    """SegMAN, or the part of it that a state dict holds.

    Args:
        state: Official keys to tensors.
        mode: ``"train"`` for a model in training mode.
        **config: ``drop_path_rate`` (0 by default), ``decoder={"dropout_ratio": ...}`` (0.1), and
            any other term of the official configuration (``encoder="SegMANEncoder_t"``,
            ``decoder={"channels": 128, ...}``, ``embed_dims``, ...), which must agree with the
            shapes.

    Returns:
        For a segmentation checkpoint a ``Segmenter``, which returns logits of the image's size; for
        an encoder with its classifier a ``Classifier``; for a part what ``load_encoder``,
        ``load_decoder`` or ``load_layer`` returns.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    if mode not in ("eval", "train"):
        raise ImportFailedError(f"mode is 'eval' or 'train', not {mode!r}")
    tops = {key.split(".")[0] for key in state}
    model: nn.Module
    if {"backbone", "decode_head"} <= tops:
        model = _segmenter(state, config)
    elif "classifier" in tops:
        model = _classifier(state, config)
    elif tops & {"patch_embed", "backbone"}:
        model = load_encoder(state, **config)
    elif tops & {"conv_seg", "decode_head"}:
        model = load_decoder(state, **config)
    elif "blocks" in tops:
        model = load_layer(state, **config)
    else:
        raise ImportFailedError(
            "this is no SegMAN state dict: it has neither backbone.* and decode_head.* nor "
            f"patch_embed.*; its keys begin with {', '.join(sorted(tops)[:5])}"
        )
    return model.train(mode == "train")


def load_encoder(
    state: Mapping[str, Any], *, drop_path_rate: float = 0.0, **config: Any
) -> SegMANEncoder:
    """The encoder: bare keys or under ``backbone.``; a classifier is left out.

    Args:
        state: Official keys to tensors or arrays.
        drop_path_rate: Stochastic depth.
        **config: What the shapes must agree with: ``encoder`` (the official class), ``embed_dims``,
            ``depths``, ``num_heads``, ``window_size``, ``mlp_ratios``, ``layerscales``,
            ``use_rpb``, ``in_chans``.

    Returns:
        The encoder in eval mode; image (B, in_chans, H, W) -> four maps.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = _under("backbone.", read_state(state))
    state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    arguments = encoder_arguments(state, config)
    check_encoder(arguments, config, "encoder")
    encoder = _made(lambda: SegMANEncoder(**arguments, drop_path_rate=drop_path_rate))
    _load(encoder, _without_angles(state), encoder_key, "encoder")
    return encoder.eval()


def load_decoder(state: Mapping[str, Any], **config: Any) -> MMSCopE:
    """The decode head: bare keys or under ``decode_head.``.

    Args:
        state: Official keys to tensors or arrays.
        **config: ``dropout_ratio`` (0.1 by default), and what the shapes must agree with:
            ``in_channels``, ``channels``, ``feat_proj_dim``, ``num_classes``; bare or as
            ``decoder={...}``.

    Returns:
        The decoder in eval mode; three or four maps, fine to coarse -> logits of the size of the
        third coarsest.

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = _under("decode_head.", read_state(state))
    arguments = decoder_arguments(state, {**config.pop("decoder", {}), **config})
    decoder = _made(lambda: MMSCopE(**arguments))
    _load(decoder, state, decoder_key, "decode head")
    return decoder.eval()


def load_layer(state: Mapping[str, Any], *, drop_path: float = 0.0, **config: Any) -> Stage:
    """One stage of the encoder (``BasicLayer``): keys ``rope.angle``, ``blocks.0.*``, ...

    Args:
        state: Official keys to tensors or arrays.
        drop_path: Stochastic depth of every block.
        **config: ``num_heads`` and ``window_size``, which are needed where there are no relative
            positions; ``layer_init_values``; and what the shapes must agree with: ``embed_dim``,
            ``depth``, ``global_mode``, ``use_rpb``, ``ffn_dim``, ``layerscale``.

    Returns:
        The stage in eval mode; (B, C, H, W) -> (B, C, H, W).

    Raises:
        ImportFailedError: Keys, shapes or ``config`` that do not fit.
    """
    state = read_state(state)
    found = stage_arguments(state, "", config)
    gain = config.pop("layer_init_values", 1e-6)
    check_layer(found, config)
    stage = _made(
        lambda: Stage(
            found["embed_dim"],
            found["heads"],
            found["window"],
            found["ffn_dim"],
            [drop_path] * found["depth"],
            layer_scale=gain if found["layerscale"] else None,
            relative_bias=found["relative_bias"],
            table=found["table"],
        )
    )
    _load(stage, _without_angles(state), layer_key, "layer")
    return stage.eval()


def encoder_key(key: str) -> str:
    """The official name, within the encoder, of a parameter or buffer of ours."""
    where, *rest = key.split(".", 2)
    if where == "stem":
        return ".".join(["patch_embed", *rest])
    number = 2 * int(rest[0]) + (where == "downsamplings")
    return f"layers.{number}.{layer_key(rest[1])}"


def layer_key(key: str) -> str:
    """The official name, within its layer, of a parameter or buffer of a stage."""
    return _renamed(key, _BLOCK_RULES)


def decoder_key(key: str) -> str:
    """The official name, within the decode head, of a parameter or buffer of ours."""
    return _renamed(key, (*_DECODER_RULES, *_BLOCK_RULES))


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _segmenter(state: dict[str, Tensor], config: dict[str, Any]) -> Segmenter:
    backbone, head = _under("backbone.", state), _under("decode_head.", state)
    backbone = {key: value for key, value in backbone.items() if not key.startswith("classifier.")}
    rate = config.pop("drop_path_rate", 0.0)
    decoder_config = dict(config.pop("decoder", {}))
    if "num_classes" in config:
        decoder_config["num_classes"] = config.pop("num_classes")
    encoder = encoder_arguments(backbone, config)
    check_encoder(encoder, config, "segmentor")
    decoder = decoder_arguments(head, decoder_config)
    if decoder.pop("in_channels") != list(encoder["dims"][1:]):
        raise ImportFailedError("the decode head is not made for the widths of the encoder")
    others = [key for key in state if not key.startswith(("backbone.", "decode_head."))]
    if others:
        raise ImportFailedError(f"this is not part of a SegMAN state dict: {others[0]}")
    model = _made(
        lambda: create_model(
            f"segman_{size_of(encoder) or 'tiny'}",
            in_chans=encoder.pop("in_chans"),
            num_classes=decoder.pop("num_classes"),
            encoder_arguments={**encoder, "drop_path_rate": rate},
            decoder_arguments=decoder,
        )
    )
    assert isinstance(model, Segmenter)
    _load(model.get_submodule("encoder"), _without_angles(backbone), encoder_key, "encoder")
    _load(model.decoder, head, decoder_key, "decode head")
    return model


def _classifier(state: dict[str, Tensor], config: dict[str, Any]) -> Classifier:
    encoder_state = {k: v for k, v in state.items() if not k.startswith("classifier.")}
    head = {k: v for k, v in state.items() if k.startswith("classifier.")}
    rate = config.pop("drop_path_rate", 0.0)
    arguments = encoder_arguments(encoder_state, config)
    num_classes, hidden = shape_of(state, "classifier.4.weight", 4, _NAME)[:2]
    for term, value in (("num_classes", num_classes), ("projection", hidden)):
        if config.pop(term, value) != value:
            raise ImportFailedError(f"{term} is {value} in this state dict")
    check_encoder(arguments, config, "encoder")
    model = _made(
        lambda: create_model(
            f"segman_{size_of(arguments) or 'tiny'}_classifier",
            in_chans=arguments.pop("in_chans"),
            num_classes=num_classes,
            encoder_arguments={**arguments, "drop_path_rate": rate},
            hidden=hidden,
        )
    )
    assert isinstance(model, Classifier)
    _load(model.get_submodule("encoder"), _without_angles(encoder_state), encoder_key, "encoder")
    parts = nn.ModuleDict({n: getattr(model, n) for n in ("conv", "norm", "classifier")})
    _load(parts, head, lambda key: _renamed(key, _CLASSIFIER_RULES), "classifier")
    return model


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys under a prefix, without it; all keys where none has it."""
    if not any(key.startswith(prefix) for key in state):
        return dict(state)
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _without_angles(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for key, found in state.items():
        if key.endswith("rope.angle"):
            angles = RotaryPosition(2 * found.numel()).angles()
            if found.shape != angles.shape or not torch.allclose(found, angles, rtol=1e-3, atol=0):
                raise ImportFailedError(f"{key} does not hold SegMAN's rotation angles")
    return {key: value for key, value in state.items() if not key.endswith("rope.angle")}


def _load(
    module: nn.Module, state: Mapping[str, Tensor], official: Callable[[str], str], what: str
) -> None:
    ours = module.state_dict()

    def reshaped(key: str, tensor: Tensor) -> Tensor:
        wanted = ours[key].shape
        leaf = key.rsplit(".", 1)[-1]
        if leaf in ("A_log", "D", "x_proj") and tensor.shape[0] % wanted[0] == 0:
            # Officially one axis for directions and channels.
            tensor = tensor.reshape(wanted[0], -1, *tensor.shape[1:])
        if tensor.dim() > len(wanted) and set(tensor.shape[len(wanted) :]) == {1}:
            tensor = tensor.flatten(len(wanted) - 1)  # a 1x1 convolution is a linear layer
        return tensor

    load_renamed(module, state, official, f"SegMAN's {what}", reshaped)


def _made(build: Callable[[], _Module]) -> _Module:
    try:
        return build()
    except ArgumentsError as error:
        raise ImportFailedError(f"the state dict describes no SegMAN: {error}") from error
