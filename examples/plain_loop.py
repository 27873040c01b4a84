"""The training of `rsmamba train` as a plain PyTorch loop, to see that nothing else is in it.

    python examples/plain_loop.py

Both train one model on the same batches; the losses of every step are printed side by side.
"""

import json
import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from rsmamba_cli import TrainConfig, load_recipe, train
from rsmamba_cli.training.assembly import assemble
from rsmamba_cli.training.data import BatchStream, TrainSamples, make_loader

STEPS, WARMUP = 5, 3


def recipe(steps: int) -> TrainConfig:
    """Drawn scenes of 64 x 64 and the smallest model; cross-entropy and Dice, AdamW, cosine."""
    settings = ["loop.epochs=none", "loop.validate_every_epochs=none", "data.val_split=none"]
    settings += ["loop.log_every=1", "loop.device=cpu", f"schedule.warmup_steps={WARMUP}"]
    settings += [
        "data.crop=64",
        "data.batch_size=4",
        "data.demo={scenes: 8, held_out: 1, size: 64}",
    ]
    return load_recipe(None, [*settings, f"loop.steps={steps}"], {"data.dataset": "demo"})


def plain_losses(config: TrainConfig, steps: int) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(config.seed)
    parts = assemble(config, print)
    model = parts.model.train()
    split = parts.dataset.split("train")
    samples = TrainSamples(split, parts.transforms, config.data, config.augment, config.seed)
    loader = iter(make_loader(BatchStream(samples, 4, config.seed), 0, 0, False))
    named = [(n, p, p.ndim < 2 or n.endswith(("A_log", ".D"))) for n, p in model.named_parameters()]
    decayed, spared = ([p for _, p, free in named if free is kind] for kind in (False, True))
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-3)
    losses = []
    for step in range(steps):
        warm = min(1.0, 1e-4 + (1 - 1e-4) * (step + 1) / WARMUP)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = next(loader)
        logits, truth = model(batch.images[0])[:, 0], batch.label.float()
        probability = logits.sigmoid()
        shared = (probability * truth).sum()
        dice = 1 - (2 * shared + 1e-5) / (probability.sum() + truth.sum() + 1e-5)
        loss = F.binary_cross_entropy_with_logits(logits, truth) + dice
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    config = recipe(STEPS)
    plain = plain_losses(config, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run")
        lines = (Path(folder) / "run/log.jsonl").read_text().splitlines()
    logged = [json.loads(line)["loss"] for line in lines]
    for mine, theirs in zip(plain, logged, strict=True):
        print(f"{mine:.7f} {theirs:.7f} {abs(mine - theirs):.1e}")


if __name__ == "__main__":
    main()
