"""The validation of a pre-training: how often the right class is among the first guesses."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rsmamba_cli.events import EventHandler, Progress, Started
from rsmamba_cli.pretraining.config import ImagesPart
from rsmamba_cli.pretraining.images import ImageFolder, central_crop
from rsmamba_models import Transform


class ClassValidator:
    """Measures a classifier on central crops, the images shared among the processes."""

    def __init__(
        self,
        folder: ImageFolder,
        transform: Transform,
        data: ImagesPart,
        fabric: Any,
        on_event: EventHandler,
    ) -> None:
        self.folder = folder
        self.transform = transform
        self.data = data
        self.fabric = fabric
        self.on_event = on_event

    @torch.inference_mode()
    def measure(self, model: nn.Module, step: int, stage: str) -> dict[str, float]:
        """Measure "top1" and "top5", shares of the images, and "nll", the mean of -log p(truth)."""
        model.eval()
        fabric, size = self.fabric, self.data.batch_size
        mine = range(fabric.global_rank, len(self.folder.images), fabric.world_size)
        total = torch.zeros(4, dtype=torch.float64)
        self.on_event(Started(stage, len(mine), "image"))
        for first in range(0, len(mine), size):
            chosen = mine[first : first + size]
            images = torch.from_numpy(np.stack([self._image(index) for index in chosen]))
            label = torch.tensor([self.folder.images[index][1] for index in chosen])
            logits = model(images.to(fabric.device)).float().cpu()
            order = logits.argsort(dim=1, descending=True, stable=True)
            hits = order[:, :5] == label[:, None]
            nll = F.cross_entropy(logits, label, reduction="sum")
            total += torch.tensor(
                [float(hits[:, 0].sum()), float(hits.sum()), float(nll), len(chosen)]
            )
            self.on_event(Progress(stage, len(chosen)))
        if fabric.world_size > 1:
            total = fabric.all_reduce(total.to(fabric.device), reduce_op="sum").cpu()
        top1, top5, nll, count = total.tolist()
        return {"top1": top1 / count, "top5": top5 / count, "nll": nll / count}

    def _image(self, index: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        crop = central_crop(self.folder.read(index), self.data.crop, self.data.shown)
        return self.transform.apply(crop)
