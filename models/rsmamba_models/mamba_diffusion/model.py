"""The whole network: encoders, neck, and a mask that is denoised under their guidance."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts, check_rates
from rsmamba_models.decoders.fcn import FCNHead
from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import resize
from rsmamba_models.mamba_diffusion.denoiser import Denoiser, TimeEmbedding
from rsmamba_models.mamba_diffusion.diffusion import (
    SCHEDULES,
    Sampler,
    alpha_sigma,
    ddim_step,
    ddpm_step,
    log_snr,
)
from rsmamba_models.mamba_diffusion.encoder import FusionEncoder
from rsmamba_models.mamba_diffusion.neck import Neck

DEFAULT_SEED = 0
_COUNTS = (
    "num_classes",
    "dims",
    "depths",
    "ssm_d_state",
    "ssm_conv",
    "neck_channels",
    "gn_groups",
    "decoder_layers",
    "decoder_heads",
    "decoder_points",
    "decoder_ffn",
    "time_frequencies",
)


class MambaDiffusion(nn.Module):
    """Segmentation of an optical and a SAR image of the same place.

    Args:
        architecture: Name under which a checkpoint finds this class again.
        in_chans: Bands of the optical and of the SAR image; one number n means (n - 1, 1).
        num_classes: Channels of the logits; 1 is a sigmoid, 2 or more a softmax.
        dims: Widths of the four stages, each twice the one before.
        depths: Blocks of each encoder, per stage.
        dcf_depths: DCF blocks per stage.
        dss4_depths: DS-S4 blocks per stage.
        ssm_d_state: States per channel.
        ssm_ratio: Inner width of the scans over the stage's.
        ssm_dt_rank: Rank of the step's projection, or "auto" for a sixteenth of the width.
        ssm_conv: Side of the depthwise convolutions before the scans.
        ssm_conv_bias: Whether they have a bias.
        mlp_ratio: Hidden width of the encoders' MLPs over the stage's.
        drop_path_rate: Stochastic depth of the encoders' last block.
        neck_channels: Width of the neck, the mask codes and the denoiser.
        gn_groups: Groups of the neck's norms.
        decoder_layers: Layers of the denoiser.
        decoder_heads: Attention heads of the denoiser.
        decoder_points: Points each head looks at.
        decoder_ffn: Hidden width of the denoiser's MLPs.
        time_frequencies: Learned frequencies of the time embedding.
        noise_schedule: ``cosine`` or ``linear``.
        bit_scale: Size of the mask codes, whose noise has deviation 1.
        aux_dropout: Dropout of the auxiliary head.
        time_range: The times that training draws from.
        sampler: Changes to the settings of ``diffusion.Sampler``.

    Attributes:
        in_chans: ``(optical, sar)``.
        task: ``multimodal``.
        needs_target: True: ``training_forward`` wants the labels.

    Raises:
        ArgumentsError: Values that make no such network.
    """

    task: ClassVar[str] = "multimodal"
    needs_target: ClassVar[bool] = True
    size_multiple = 1

    def __init__(
        self,
        *,
        architecture: str,
        in_chans: int | Sequence[int] = (4, 1),
        num_classes: int = 7,
        dims: Sequence[int] = (128, 256, 512, 1024),
        depths: Sequence[int] = (2, 2, 15, 2),
        dcf_depths: Sequence[int] = (2, 2, 2, 2),
        dss4_depths: Sequence[int] = (2, 2, 4, 2),
        ssm_d_state: int = 1,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        ssm_conv: int = 3,
        ssm_conv_bias: bool = False,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.6,
        neck_channels: int = 256,
        gn_groups: int = 32,
        decoder_layers: int = 6,
        decoder_heads: int = 8,
        decoder_points: int = 4,
        decoder_ffn: int = 1024,
        time_frequencies: int = 8,
        noise_schedule: str = "cosine",
        bit_scale: float = 0.01,
        aux_dropout: float = 0.1,
        time_range: Sequence[float] = (0.0, 0.999),
        sampler: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        bands = _split(in_chans)
        self.architecture = architecture
        self.in_chans = bands
        self.num_classes = num_classes
        self._sampler = Sampler.of(sampler)
        self.noise_schedule = noise_schedule
        self.bit_scale = bit_scale
        self.channels = neck_channels
        self.arguments: dict[str, Any] = {
            "in_chans": list(bands),
            "num_classes": num_classes,
            "dims": list(dims),
            "depths": list(depths),
            "dcf_depths": list(dcf_depths),
            "dss4_depths": list(dss4_depths),
            "ssm_d_state": ssm_d_state,
            "ssm_ratio": ssm_ratio,
            "ssm_dt_rank": ssm_dt_rank,
            "ssm_conv": ssm_conv,
            "ssm_conv_bias": ssm_conv_bias,
            "mlp_ratio": mlp_ratio,
            "drop_path_rate": drop_path_rate,
            "neck_channels": neck_channels,
            "gn_groups": gn_groups,
            "decoder_layers": decoder_layers,
            "decoder_heads": decoder_heads,
            "decoder_points": decoder_points,
            "decoder_ffn": decoder_ffn,
            "time_frequencies": time_frequencies,
            "noise_schedule": noise_schedule,
            "bit_scale": bit_scale,
            "aux_dropout": aux_dropout,
            "time_range": list(time_range),
            "sampler": self.sampler,
        }
        _check(self.arguments)
        self.encoder = FusionEncoder(
            bands,
            num_classes,
            dims,
            depths,
            dcf_depths,
            dss4_depths,
            ssm_d_state=ssm_d_state,
            ssm_ratio=ssm_ratio,
            ssm_dt_rank=ssm_dt_rank,
            ssm_conv=ssm_conv,
            ssm_conv_bias=ssm_conv_bias,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
        )
        self.neck = Neck(dims, neck_channels, gn_groups)
        # A sigmoid's mask has two classes as well. The last code stands for pixels without a label.
        self.codes = nn.Embedding(max(num_classes, 2) + 1, neck_channels)
        self.transform = nn.Conv2d(2 * neck_channels, neck_channels, 1)
        _initialise(self.transform)
        self.time = TimeEmbedding(time_frequencies, 4 * neck_channels)
        self.denoiser = Denoiser(
            neck_channels,
            num_classes,
            decoder_layers,
            decoder_heads,
            decoder_points,
            decoder_ffn,
            4 * neck_channels,
        )
        self.auxiliary = FCNHead(
            (neck_channels,), num_classes, level=0, channels=neck_channels, dropout=aux_dropout
        )

    def forward(
        self,
        x: Tensor,
        x2: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        sampler: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Segment.

        An image's result depends on its own noise only, never on what else is in the batch. Without
        ``noise`` and ``generator`` every image starts from the same noise, ``default_noise``.

        Args:
            x: Optical images (B, in_chans[0], H, W), or both stacked along the bands.
            x2: SAR images (B, in_chans[1], H, W), or None where ``x`` has both.
            noise: Standard normal, of the shape that ``noise_shape`` tells; also without its axis
                of draws, those following one another image by image.
            generator: What the noise is drawn from, image by image, where it is not given.
            steps: Passes of the denoiser, in the place of the sampler's own.
            sampler: Changes to ``self.sampler``.

        Returns:
            Logits (B, num_classes, H, W).

        Raises:
            ArgumentsError: Inputs that do not fit.
        """
        settings = self._changed(steps, sampler)
        features = self.features(x, x2)
        noise = self._noise(features, noise, generator, settings)
        scores = self.sample(features, noise, settings)
        image = resize(scores, like=x)
        if not settings.accumulate or settings.as_probabilities:
            return image
        return image.logit(1e-7) if self.num_classes == 1 else image.clamp(min=1e-30).log()

    def training_forward(
        self,
        x: Tensor,
        x2: Tensor | None = None,
        *,
        target: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        times: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One random step of the diffusion: a noisy form of the true mask has to be classified.

        The objective is the cross-entropy of ``logits``; the official weight of ``auxiliary``'s is
        0.4.

        Args:
            x: Optical images, or both stacked, as for ``forward``.
            x2: SAR images, or None.
            target: Labels (B, H, W) or (B, 1, H, W), whole numbers; what is none of the classes is
                taken as a pixel without a label.
            generator: What times and noise are drawn from; None is torch's global one.
            noise: (B, C, h, w) in the place of a draw.
            times: (B,) in [0, 1] in the place of a draw, uniform over ``time_range``.

        Returns:
            ``logits`` and ``auxiliary``, both (B, num_classes, H, W).

        Raises:
            ArgumentsError: Inputs that do not fit.
        """
        features = self.features(x, x2)
        if target.dim() == 3:
            target = target[:, None]
        if target.shape != (x.shape[0], 1, *x.shape[2:]):
            raise ArgumentsError(
                f"labels are (B, H, W), not {tuple(target.shape)} for images {tuple(x.shape)}"
            )
        if times is None:
            first, last = self.arguments["time_range"]
            times = _draw(torch.rand, (x.shape[0],), generator, features)
            times = first + (last - first) * times
        if noise is None:
            noise = _draw(torch.randn, tuple(features.shape), generator, features)
        mask = F.interpolate(target.float(), features.shape[-2:], mode="nearest")[:, 0].long()
        level = log_snr(times, self.noise_schedule)
        alpha, sigma = (a[:, None, None, None] for a in alpha_sigma(level))
        noisy = alpha * self.encode_mask(mask) + sigma * noise
        return {
            "logits": resize(self.denoise(features, noisy, level), like=x),
            "auxiliary": resize(self.auxiliary([features]), like=x),
        }

    def features(self, x: Tensor, x2: Tensor | None = None) -> Tensor:
        """Both images to the map (B, C, ceil(H/4), ceil(W/4)) that guides the denoiser."""
        out: Tensor = self.neck(self.encoder(x, x2))
        return out

    def sample(self, features: Tensor, noise: Tensor, sampler: Sampler) -> Tensor:
        """Denoise from pure noise.

        Args:
            features: (B, C, h, w).
            noise: (B, sampler.draws, C, h, w).
            sampler: How.

        Returns:
            Logits (B, num_classes, h, w); mean probabilities where the sampler accumulates.
        """
        batch, starts = features.shape[0], sampler.starts
        features = features.repeat_interleave(starts, 0)
        # (B, rounds * starts, ...) -> (B * starts, ...) for every round.
        rounds = range(0, noise.shape[1], starts)
        z, *further = (noise[:, first : first + starts].flatten(0, 1) for first in rounds)
        # Computed on the CPU whatever the device, because it is sensitive to rounding.
        times = torch.tensor(sampler.times(), dtype=torch.float32, device="cpu")
        levels = log_snr(times, self.noise_schedule).to(features.device)
        results = []
        for step, (now, after) in enumerate(levels):
            scores = self.denoise(features, z, now.expand(batch * starts))
            if sampler.accumulate:
                results.append(scores.sigmoid() if self.num_classes == 1 else scores.softmax(1))
            if step + 1 == sampler.steps:
                break
            z0 = self.encode_mask(self.decide(scores))
            if sampler.name == "ddim":
                z = ddim_step(z, z0, now, after)
            else:
                z = ddpm_step(z, z0, now, after, further.pop(0) if step in sampler.noisy else None)
        last = torch.stack(results).mean(0) if sampler.accumulate else scores
        return last.view(batch, starts, *last.shape[1:]).mean(1)

    def denoise(self, features: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """One pass: (B, C, h, w) twice and log-SNRs (B,) -> logits (B, num_classes, h, w)."""
        guided = self.transform(torch.cat([features, noisy.to(features.dtype)], 1))
        out: Tensor = self.denoiser(guided, self.time(level))
        return out

    def decide(self, scores: Tensor) -> Tensor:
        """Logits (B, num_classes, h, w) -> class indices (B, h, w)."""
        return (scores[:, 0] > 0).long() if self.num_classes == 1 else scores.argmax(1)

    def encode_mask(self, mask: Tensor) -> Tensor:
        """Class indices (B, h, w) -> codes (B, C, h, w), each value within ``bit_scale``."""
        unlabelled = self.codes.num_embeddings - 1
        mask = torch.where((mask < 0) | (mask > unlabelled), unlabelled, mask)
        codes: Tensor = (self.codes(mask).sigmoid() * 2 - 1) * self.bit_scale
        return codes.permute(0, 3, 1, 2)

    def noise_shape(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        steps: int | None = None,
        sampler: Mapping[str, Any] | None = None,
    ) -> tuple[int, int, int, int, int]:
        """Shape of the noise that ``forward`` takes for images of this size.

        Args:
            batch: Images.
            height: Rows of an image.
            width: Columns of an image.
            steps: As for ``forward``.
            sampler: As for ``forward``.

        Returns:
            (batch, draws, C, ceil(height / 4), ceil(width / 4)): concatenate single images' noise
            along the first axis.
        """
        draws = self._changed(steps, sampler).draws
        return batch, draws, self.channels, math.ceil(height / 4), math.ceil(width / 4)

    @property
    def sampler(self) -> dict[str, Any]:
        """The sampler's settings where ``forward`` is given none; see ``diffusion.Sampler``."""
        return self._sampler.settings()

    @sampler.setter
    def sampler(self, settings: Mapping[str, Any]) -> None:
        self._sampler = Sampler.of(settings)

    def _changed(self, steps: int | None, sampler: Mapping[str, Any] | None) -> Sampler:
        more = None if steps is None else {"steps": steps}
        return Sampler.of(self.sampler, sampler, more)

    def _noise(
        self,
        features: Tensor,
        noise: Tensor | None,
        generator: torch.Generator | None,
        sampler: Sampler,
    ) -> Tensor:
        """The noise given, drawn or default: (B, draws, C, h, w)."""
        batch, *rest = features.shape
        wanted = (sampler.draws, *rest)
        if noise is None and generator is not None:
            noise = torch.stack(
                [_draw(torch.randn, wanted, generator, features) for _ in range(batch)]
            )
        elif noise is None:
            noise = default_noise(wanted).expand(batch, *wanted)
        elif list(noise.shape) not in ([batch, *wanted], [batch * sampler.draws, *rest]):
            raise ArgumentsError(
                f"noise has shape {tuple(noise.shape)}, these images and this sampler take "
                f"{(batch, *wanted)} (noise_shape tells)"
            )
        # A noisy mask is kept in single precision at least: its signal is small beside its noise.
        dtype = torch.promote_types(features.dtype, torch.float32)
        return noise.reshape(batch, *wanted).to(features.device, dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def default_noise(shape: tuple[int, ...], seed: int = DEFAULT_SEED) -> Tensor:
    """Standard normal noise that is the same everywhere and always: NumPy's frozen generator."""
    values = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def _draw(
    function: Any, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor
) -> Tensor:
    """A float32 draw on the generator's device (else the images'), moved to the images'."""
    device = like.device if generator is None else generator.device
    drawn: Tensor = function(shape, generator=generator, device=device, dtype=torch.float32)
    return drawn.to(like.device)


def _initialise(layer: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _split(in_chans: int | Sequence[int]) -> tuple[int, int]:
    bands = (in_chans - 1, 1) if isinstance(in_chans, int) else tuple(in_chans)
    if len(bands) != 2 or not all(type(n) is int and 1 <= n <= 65536 for n in bands):
        raise ArgumentsError(
            "in_chans: the bands of the optical and of the SAR image are wanted, such as (4, 1), "
            f"not {in_chans!r}"
        )
    return bands[0], bands[1]


def _check(arguments: dict[str, Any]) -> None:
    check_counts(**{name: arguments[name] for name in _COUNTS})
    for name in ("dims", "depths", "dcf_depths", "dss4_depths"):
        values = arguments[name]
        if len(values) != 4 or not all(type(n) is int and 0 <= n <= 65536 for n in values):
            raise ArgumentsError(f"{name}: four whole numbers are wanted, not {values}")
    dims = arguments["dims"]
    if any(b != 2 * a for a, b in itertools.pairwise(dims)) or dims[0] % 2:
        raise ArgumentsError(f"dims must start even and double from stage to stage, not {dims}")
    rank = arguments["ssm_dt_rank"]
    if rank != "auto" and (type(rank) is not int or rank < 1):
        raise ArgumentsError(f"ssm_dt_rank is 'auto' or a whole number from 1, not {rank!r}")
    if arguments["ssm_conv"] % 2 == 0:
        raise ArgumentsError(f"ssm_conv is odd, not {arguments['ssm_conv']}")
    for name in ("ssm_ratio", "mlp_ratio"):
        if not 1.0 / dims[0] <= arguments[name] <= 64:
            raise ArgumentsError(f"{name} is positive and at most 64, not {arguments[name]}")
    times = arguments["time_range"]
    if len(times) != 2 or not 0.0 <= times[0] < times[1] <= 1.0:
        raise ArgumentsError(f"time_range is two rising times in [0, 1], not {times}")
    check_rates(**{name: arguments[name] for name in ("drop_path_rate", "aux_dropout")})
    width = arguments["neck_channels"]
    for name in ("gn_groups", "decoder_heads"):
        if width % arguments[name] or width % 4:
            raise ArgumentsError(
                f"neck_channels {width} must be a multiple of 4 and of {name} {arguments[name]}"
            )
    if arguments["noise_schedule"] not in SCHEDULES:
        raise ArgumentsError(
            f"noise_schedule is {' or '.join(SCHEDULES)}, not {arguments['noise_schedule']!r}"
        )
    if not 0.0 < arguments["bit_scale"] <= 1e3:
        raise ArgumentsError(f"bit_scale is positive, not {arguments['bit_scale']}")
