"""Windows in, class probabilities out: the only part of the pipeline that knows torch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rsmamba_cli.errors import CheckpointError, DeviceError
from rsmamba_cli.events import EventHandler, Warned, ignore_events
from rsmamba_cli.inference.forecast import held_bytes
from rsmamba_cli.inference.sampler import Place, samples, window_noise
from rsmamba_cli.inference.staging import Carrier, Pending, Wait, carrier_for
from rsmamba_models import CheckpointMeta, ModelsError

Tta = Literal["none", "flip", "d4"]
Floats = npt.NDArray[np.float32]
View = Callable[[Tensor], Tensor]

_WALKED = 512
"""Side of the largest window that a forecast walks through."""
_LIBRARIES = 24 << 20
"""What the libraries beneath take for themselves during a pass: 18 to 33 MiB were measured."""
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LazyPredictor:
    """A predictor that is built when the first window comes: not every run has one to compute."""

    def __init__(self, build: "Callable[[], Predictor]") -> None:
        """Remember how.

        Args:
            build: makes the predictor.
        """
        self._build = build
        self._predictor: Predictor | None = None

    def buffer(self, shape: tuple[int, ...]) -> Floats:
        """As `Predictor.buffer`."""
        return self._built().buffer(shape)

    def begin(self, arrays: Sequence[Floats], places: Sequence[Place], out: Floats) -> Pending:
        """As `Predictor.begin`."""
        return self._built().begin(arrays, places, out)

    def _built(self) -> "Predictor":
        if self._predictor is None:
            self._predictor = self._build()
        return self._predictor


class Predictor:
    """A model with its device, precision and batch shape.

    Every forward pass has the same batch size (the last one is padded by repeating a window), so
    that a window's answer does not depend on which others were computed with it. Where the device
    runs out of memory, that size is halved for good.
    """

    def __init__(
        self,
        model: nn.Module,
        meta: CheckpointMeta,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        batch_size: int = 1,
        tta: Tta = "none",
        seed: int = 0,
        on_event: EventHandler = ignore_events,
        carrier: Carrier | None = None,
    ) -> None:
        """Move the model to its device.

        Args:
            model: keeps the model contract: one or two images in, logits at input size out.
            meta: says how logits become probabilities, and of which classes.
            device: torch device.
            precision: "fp32", or "bf16" and "fp16" for autocast.
            batch_size: windows a forward pass.
            tta: average over "flip" (4) or "d4" (8) views, each turned back exactly. The noise
                of a diffusion model is turned along: it belongs to the place, as the image does.
            seed: of the noise that a diffusion model starts from.
            on_event: told when the device turns out to be too small for the batches.
            carrier: brings batches to the device and back; None takes what suits it.
        """
        self.device = torch.device(device)
        self._carrier = carrier or carrier_for(self.device)
        self.model = model.to(self.device).eval()
        self.meta = meta
        self.precision = precision
        self.batch_size = batch_size
        self.classes = len(meta.classes)
        self.seed = seed
        self._at_once = batch_size
        self._on_event = on_event
        self._views = _views(tta)

    def __call__(self, arrays: Sequence[Floats], places: Sequence[Place] | None = None) -> Floats:
        """Predict windows.

        Args:
            arrays: one normalised array (n, bands, h, w) for each input of the model.
            places: one for each window; a diffusion model's noise follows from them.

        Returns:
            (n, classes, h, w) float32 probabilities over all classes, in the checkpoint's order; a
            sigmoid model answers with 1 - p and p.

        Raises:
            CheckpointError: the model's output does not fit its metadata.
            DeviceError: the device is out of memory even with one window.
            ValueError: a diffusion model was given no places.
        """
        if places is None and samples(self.model):
            raise ValueError("a model that samples needs to know the places of its windows")
        count, _, height, width = arrays[0].shape
        out = np.empty((count, len(self.meta.classes), height, width), dtype=np.float32)
        self.begin(arrays, places or (), out).arrived()
        return out

    def buffer(self, shape: tuple[int, ...]) -> Floats:
        """Host memory for windows or answers that the device is quick to reach."""
        return self._carrier.buffer(shape)

    def begin(self, arrays: Sequence[Floats], places: Sequence[Place], out: Floats) -> Pending:
        """As calling it, but the answer may arrive later.

        Args:
            arrays: see there.
            places: see there.
            out: (n, classes, h, w), where the answer goes.

        Returns:
            What to wait for.

        Raises:
            RsmambaError: see there.
        """
        done, count = 0, len(arrays[0])
        while done < count:
            batch = slice(done, done + self._at_once)
            waits = self._batch([a[batch] for a in arrays], places[batch], out[batch])
            if waits is None:
                self._on_event(Warned(self._halve(), essential=True))
                continue
            done += self._at_once
        assert waits is not None
        # Copies in one direction follow each other: the last one is the last.
        return Pending(*waits)

    def _batch(
        self, arrays: Sequence[Floats], places: Sequence[Place], out: Floats
    ) -> tuple[Wait, Wait] | None:
        """Begin with at most as many windows as are computed at once; None: out of memory."""
        count = len(arrays[0])
        missing = self._at_once - count
        noise = None
        if samples(self.model):
            padded = [*places, *[places[-1]] * missing]
            drawn = window_noise(self.model, self.seed, padded, *arrays[0].shape[-2:])
            noise = torch.from_numpy(drawn)
        answer = torch.from_numpy(out)
        try:
            with torch.inference_mode(), self._autocast():
                sent, taken = self._carrier.send(
                    [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
                )
                if missing:
                    sent = [torch.cat([x, x[-1:].expand(missing, -1, -1, -1)]) for x in sent]
                there = None if noise is None else noise.to(self.device)
                into = None if missing else self._carrier.in_place(answer)
                probabilities = self._averaged(sent, there, into)
                return taken, self._carrier.fetch(probabilities[:count], answer)
        except torch.OutOfMemoryError as error:
            if self._at_once == 1:
                raise DeviceError(
                    f"{self.device}: out of memory with a single window of {arrays[0].shape[-2]} x "
                    f"{arrays[0].shape[-1]} pixels; use a smaller --tile"
                ) from error
        except ModelsError as error:
            raise CheckpointError(str(error)) from error
        # By now the error is gone, and with it the tensors that its frames held.
        return None

    def _halve(self) -> str:
        """Compute fewer windows at once from now on; returns what to tell the user.

        The batches of the plan stay, and are gone through in parts: that moves no more than
        roundings, and what was computed before keeps its worth.
        """
        before, self._at_once = self._at_once, -(-self._at_once // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return (
            f"{self.device}: out of memory with {before} windows at once; going on with "
            f"{self._at_once}. Roundings may differ from a run that fits; --batch-size "
            f"{self._at_once} does the same from the start."
        )

    def memory_forecast(self, bands: Sequence[int], shape: tuple[int, int]) -> int:
        """About the memory that the model takes for its batches: weights, and all in between.

        Args:
            bands: of each input.
            shape: (height, width) of a window.

        Returns:
            Bytes. The answer for windows beyond 512 pixels follows the area of a smaller one.
        """
        scale = max(1, -(-max(shape) // _WALKED))
        multiple = self.meta.size_multiple
        height, width = (max(multiple, -(-n // scale // multiple) * multiple) for n in shape)
        shapes: list[tuple[int, ...]] = [(self.batch_size, n, height, width) for n in bands]
        if samples(self.model):
            noise_shape: Any = self.model.noise_shape
            shapes.append(noise_shape(self.batch_size, height, width))

        def answer(*tensors: Tensor) -> None:
            noise = tensors[len(bands)] if len(tensors) > len(bands) else None
            with torch.inference_mode(), self._autocast():
                self._averaged(list(tensors[: len(bands)]), noise)

        held = held_bytes(answer, shapes, self.device)
        return self.fixed_bytes() + round(held * (shape[0] * shape[1]) / (height * width))

    def fixed_bytes(self) -> int:
        """Memory that follows from neither batch nor window: weights, and what libraries take."""
        weights: int = sum(t.nbytes for t in self.model.state_dict().values())
        return weights + _LIBRARIES

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = _AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def _averaged(
        self, inputs: list[Tensor], noise: Tensor | None, out: Tensor | None = None
    ) -> Tensor:
        """Mean probabilities over all views, in ``out`` if there is just one."""
        only = out if len(self._views) == 1 else None
        total: Tensor | None = None
        for there, back in self._views:
            more = {} if noise is None else {"noise": there(noise)}
            logits = self.model(*[there(x) for x in inputs], **more)
            answer = back(self._probabilities(logits, only))
            total = answer.contiguous() if total is None else total + answer
        assert total is not None
        return total if len(self._views) == 1 else total / len(self._views)

    def _probabilities(self, logits: Tensor, out: Tensor | None) -> Tensor:
        if logits.shape[1] != self.meta.logits:
            raise CheckpointError(
                f"the model answers with {logits.shape[1]} channels where its metadata lists "
                f"{self.meta.logits}"
            )
        scaled = logits.float()
        if self.meta.temperature != 1:
            scaled = scaled / self.meta.temperature
        if self.meta.output == "sigmoid":
            # Both sides by a sigmoid of their own: 1 - p loses the small probabilities.
            return torch.cat([torch.sigmoid(-scaled), torch.sigmoid(scaled)], dim=1, out=out)
        return torch.softmax(scaled, dim=1, out=out)


def _views(tta: Tta) -> tuple[tuple[View, View], ...]:
    """Pairs of a view and its inverse; the first is the identity."""

    def flipped(axes: tuple[int, ...]) -> View:
        return (lambda x: x.flip(axes)) if axes else (lambda x: x)

    flips = [flipped(axes) for axes in ((), (-1,), (-2,), (-2, -1))]
    plain = tuple((flip, flip) for flip in flips)
    if tta == "none":
        return plain[:1]
    if tta == "flip":
        return plain

    def transposed(flip: View) -> tuple[View, View]:
        return lambda x: flip(x.transpose(-2, -1)), lambda y: flip(y).transpose(-2, -1)

    return (*plain, *(transposed(flip) for flip in flips))
