"""The training loop: steps, validation, checkpoints."""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsmamba_cli.datasets import Split
from rsmamba_cli.errors import DatasetError, Interrupted, OutputError, RsmambaError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started
from rsmamba_cli.inference.interrupt import interruptible
from rsmamba_cli.training.assembly import Parts, decaying_groups
from rsmamba_cli.training.augment import AugmentOptions
from rsmamba_cli.training.data import Batch, BatchStream, TrainSamples, make_loader, worker_count
from rsmamba_cli.training.ema import Ema
from rsmamba_cli.training.losses import SegmentationLoss
from rsmamba_cli.training.metrics import summarise
from rsmamba_cli.training.pictures import Picture, row_of, write_grid
from rsmamba_cli.training.recipe import TrainConfig
from rsmamba_cli.training.results import TrainResult
from rsmamba_cli.training.schedule import Schedule
from rsmamba_cli.training.state import BAD_BATCH, BEST, LAST, STATE, RunLog, save_torch
from rsmamba_cli.training.whole import Tally, decide, run_split
from rsmamba_models import ModelsError, save_checkpoint

_MOST_SKIPPED = 50
"""Steps in a row that fp16 may skip for overflow before training is called broken."""


class Trainer:
    """One process of a training run."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        parts: Parts,
        fabric: Any,
        where: tuple[str, str],
        on_event: EventHandler,
    ) -> None:
        self.config = config
        self.out = out
        self.parts = parts
        self.fabric = fabric
        self.device, self.precision = where
        self.on_event = on_event
        self.log: RunLog | None = None
        self.raw = parts.model
        # The weights are the same in every process from here on, the noise is not.
        noise = np.random.SeedSequence((config.seed, fabric.global_rank))
        torch.manual_seed(int(noise.generate_state(1)[0]))
        tuning = config.optimiser
        groups = decaying_groups(self.raw, tuning.weight_decay, tuning.decay_all)
        optimiser = torch.optim.AdamW(groups, lr=tuning.lr, betas=tuning.betas)
        model = parts.model
        if fabric.world_size > 1 and self.device == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            self.raw = model
        self.model, self.optimiser = fabric.setup(model, optimiser)
        self.model.mark_forward_method("training_forward")
        self.ema = None if tuning.ema is None else Ema(self.raw, tuning.ema)
        self.loss = SegmentationLoss(**config.loss.model_dump())
        self.schedule = Schedule(**config.schedule.model_dump())
        samples = TrainSamples(
            parts.dataset.split(config.data.train_split),
            parts.transform,
            config.data,
            AugmentOptions(**config.augment.model_dump()),
            config.seed,
            fabric.global_rank,
        )
        self.stream = BatchStream(
            samples, config.data, config.seed, fabric.global_rank, fabric.world_size
        )
        val = config.data.val_split
        if val is not None and val not in parts.dataset.splits:
            raise DatasetError(
                f"There is no split {val} to validate on, only {', '.join(parts.dataset.splits)}. "
                "Name another as data.val_split, or none to train without validation."
            )
        self.val: Split | None = None if val is None else parts.dataset.split(val)
        many = len(parts.dataset.classes) > 2
        wanted = config.loop.monitor
        self.monitor = ("miou" if many else "f1") if wanted == "auto" else wanted
        self.step = 0
        self.elapsed = self.clock = 0.0
        self.started = time.monotonic()
        self.skipped = 0
        self.recent: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.best_metrics: dict[str, float] = {}

    @property
    def total(self) -> float:
        """Optimiser steps of the whole training; infinite if only time bounds it."""
        loop = self.config.loop
        steps = math.inf if loop.steps is None else loop.steps
        if loop.epochs is None:
            return steps
        batches = loop.epochs * self.stream.per_epoch
        return min(steps, math.ceil(batches / self.config.optimiser.accumulate))

    def epochs_at(self, step: int) -> float:
        """Passes over the training split after ``step`` optimiser steps."""
        return step * self.config.optimiser.accumulate / self.stream.per_epoch

    @property
    def spent(self) -> float:
        """Seconds of training so far, over all runs."""
        return self.elapsed + time.monotonic() - self.started

    def progress(self) -> float:
        """The share of the training that is done, by steps or by time, whichever is more."""
        budget = self.config.loop.time_budget
        return max(self.step / self.total, self.clock / budget if budget else 0.0)

    def _tick(self, check: Callable[[], None]) -> Interrupted | None:
        """Read the clock and whether a signal came; all processes take those of the first."""
        stop: Interrupted | None = None
        try:
            check()
        except Interrupted as error:
            stop = error
        self.clock = self.spent
        if self.fabric.world_size > 1:
            self.clock, stop = self.fabric.broadcast((self.clock, stop))
        return stop

    def go(self) -> TrainResult:
        """Train until the length, the time, the limit or a signal ends it."""
        self.started = time.monotonic()
        self.clock = saved = self.elapsed
        first = self.step
        loop = self.config.loop
        stage = "train"
        done, limited = self.progress() >= 1, False
        self.on_event(
            Started(stage, None if math.isinf(self.total) else int(self.total) - first, "step")
        )
        loader = iter(
            make_loader(
                self.stream,
                self.step * self.config.optimiser.accumulate,
                worker_count(self.config.data.workers, self.device == "cuda"),
                self.device == "cuda",
            )
        )
        with interruptible() as check:
            while not done and not limited:
                detail = self._advance(loader)
                stop = self._tick(check)
                done = self.progress() >= 1
                limited = loop.limit_steps is not None and self.step - first >= loop.limit_steps
                if self._validation_due(done):
                    self._validate()
                    saved = self.clock
                elif limited or stop or self.clock - saved > 60 * loop.save_every_minutes:
                    self._save(best=False)
                    saved = self.clock
                self.on_event(Progress(stage, detail=detail))
                if stop and not done:
                    raise Interrupted(
                        f"{stop} after step {self.step}; go on with --resume --out {self.out}"
                    )
        shown = self.best_metrics.get(self.monitor)
        best = "" if shown is None else f", best {self.monitor} {shown:.4f}"
        self.on_event(Finished(stage, f"{self.step} steps in {self.spent:.0f} s{best}"))
        self.fabric.barrier()
        path = self.out / BEST
        return TrainResult(
            out=self.out,
            best=path if path.is_file() else None,
            last=self.out / LAST,
            best_metrics=self.best_metrics,
            last_metrics=self.metrics,
            monitor=self.monitor,
            steps=self.step,
            epochs=self.epochs_at(self.step),
            seconds=self.spent,
            finished=not limited or done,
            device=self.device,
            precision=self.precision,
        )

    def _advance(self, loader: Any) -> str:
        """One optimiser step; returns its state in a few words."""
        tuning = self.config.optimiser
        factor = self.schedule.factor(self.step, self.progress())
        for group in self.optimiser.param_groups:
            group["lr"] = tuning.lr * factor
        self.model.train()
        sums: dict[str, float] = {}
        for part in range(tuning.accumulate):
            batch: Batch = next(loader).to(self.fabric.device)
            waiting = part + 1 < tuning.accumulate
            with self.fabric.no_backward_sync(self.model, enabled=waiting):
                logits = self.model.training_forward(*batch.images)["logits"]
                parts = self.loss(logits, batch.label)
                if not torch.isfinite(parts["loss"]):
                    self._give_up(batch, f"the loss is {parts['loss'].item()}")
                self.fabric.backward(parts["loss"] / tuning.accumulate)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / tuning.accumulate
        # Fabric unscales first: clipping scaled gradients would shrink every step of fp16.
        norm = float(
            self.fabric.clip_gradients(
                self.model,
                self.optimiser,
                max_norm=tuning.clip_norm or math.inf,
                error_if_nonfinite=False,
            )
        )
        if math.isfinite(norm):
            self.skipped = 0
        else:
            self.skipped += 1
            if self.precision != "fp16" or self.skipped > _MOST_SKIPPED:
                self._give_up(batch, f"the gradient norm is {norm}")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.raw)
        self.step += 1
        sums["grad_norm"] = norm if math.isfinite(norm) else 0.0
        self._note(sums, tuning.lr * factor)
        score = self.metrics.get(self.monitor)
        tail = "" if score is None else f", {self.monitor} {score:.3f}"
        return f"loss {sums['loss']:.3f}{tail}"

    def _note(self, sums: dict[str, float], lr: float) -> None:
        """Add a step to the running means and write them every so often."""
        self.recent["count"] = self.recent.get("count", 0) + 1
        for name, value in sums.items():
            self.recent[name] = self.recent.get(name, 0.0) + value
        if self.step % self.config.loop.log_every and self.step < self.total:
            return
        count = self.recent.pop("count")
        means = {name: total / count for name, total in self.recent.items()}
        self.recent = {}
        if self.log is not None:
            self.log.write(
                {
                    "step": self.step,
                    "epoch": self.epochs_at(self.step),
                    "lr": lr,
                    **means,
                    "seconds": round(self.spent, 3),
                }
            )

    def _validation_due(self, done: bool) -> bool:
        """Whether the split is to be measured after this step."""
        loop = self.config.loop
        if self.val is None:
            return done
        if done or (loop.validate_every_steps and self.step % loop.validate_every_steps == 0):
            return True
        epoch = math.floor(self.epochs_at(self.step) + 1e-9)
        before = math.floor(self.epochs_at(self.step - 1) + 1e-9)
        return bool(
            loop.validate_every_epochs
            and epoch > before
            and epoch % loop.validate_every_epochs == 0
            and epoch >= loop.validate_from_epoch
        )

    def _validate(self) -> None:
        """Measure whole tiles of the validation split, paint some, and save."""
        if self.val is None:
            self._save(best=False)
            return
        self._check_buffers()
        classes = self.parts.dataset.classes
        colors = [c.color for c in classes]
        mine = range(self.fabric.global_rank, len(self.val), self.fabric.world_size)
        few = np.linspace(0, len(mine) - 1, min(self.config.loop.pictures, len(mine)))
        shown = {mine[int(i)] for i in few}
        rows: list[Picture] = []
        tally = Tally.empty(len(classes))
        stage = f"validate step {self.step}"
        self.on_event(Started(stage, len(mine), "tile"))
        meta, batch = self.parts.meta, self.config.data.batch_size
        with self.ema.applied(self.raw) if self.ema else nullcontext():
            answers = run_split(self.raw, meta, self.fabric.device, self.val, mine, batch)
            for index, sample, found in answers:
                tally.add(sample.label, found, meta)
                if index in shown and self.log is not None:
                    rows.append(row_of(sample, decide(found, meta), colors))
                self.on_event(Progress(stage))
        self.raw.train()
        if self.fabric.world_size > 1:
            tally = self._reduce(tally)
        self.metrics = summarise(tally.confusion, [c.name for c in classes])
        self.metrics["nll"] = tally.nll
        score = self.metrics[self.monitor]
        better = score > self.best_metrics.get(self.monitor, -math.inf)
        if better:
            self.best_metrics = dict(self.metrics)
        self.schedule.validated(score)
        if self.log is not None:
            figures = {f"val_{name}": value for name, value in self.metrics.items()}
            seconds = round(self.spent, 3)
            epoch = self.epochs_at(self.step)
            self.log.write({"step": self.step, "epoch": epoch, "seconds": seconds, **figures})
            if rows:
                folder = self.out / "pictures"
                folder.mkdir(exist_ok=True)
                write_grid(rows, folder / f"step_{self.step:07d}.png")
        self._save(best=better)
        self.on_event(Finished(stage, f"{self.monitor} {score:.4f}{' (best)' if better else ''}"))

    def _reduce(self, tally: Tally) -> Tally:
        """Add up the counts of all processes."""
        numbers = torch.tensor(
            [*tally.confusion.ravel().tolist(), tally.log_likelihood],
            dtype=torch.float64,
            device=self.fabric.device,
        )
        total = self.fabric.all_reduce(numbers, reduce_op="sum").cpu().numpy()
        shape = tally.confusion.shape
        return Tally(total[:-1].round().astype(np.int64).reshape(shape), float(total[-1]))

    def _check_buffers(self) -> None:
        """Refuse to go on with BatchNorm statistics that one overflow has ruined for good.

        Raises:
            RsmambaError: a buffer is not finite.
        """
        for name, buffer in self.raw.named_buffers():
            if buffer.is_floating_point() and not torch.isfinite(buffer).all():
                raise RsmambaError(
                    f"{name} is not finite after step {self.step}: an activation overflowed. "
                    "Train with loop.precision=bf16 or fp32."
                )

    def _give_up(self, batch: Batch, what: str) -> None:
        """Save the batch that broke the training.

        Raises:
            RsmambaError: always.
        """
        path = self.out / BAD_BATCH
        save_torch(
            {
                "step": self.step,
                "stems": list(batch.stems),
                "images": [image.cpu() for image in batch.images],
                "label": batch.label.cpu(),
            },
            path,
        )
        raise RsmambaError(
            f"Training stopped at step {self.step}: {what}. The batch is in {path} "
            f"({', '.join(batch.stems[:4])}...). Look for broken tiles; else lower optimiser.lr, "
            "or use loop.precision=fp32. The last saved state is from before."
        )

    def _save(self, best: bool) -> None:
        """Write the checkpoints and the state."""
        if self.fabric.is_global_zero:
            meta = self.parts.meta
            meta = meta.model_copy(
                update={
                    "metrics": {f"val_{k}": v for k, v in self.metrics.items() if math.isfinite(v)},
                    "training": {
                        **meta.training,
                        "step": self.step,
                        "epoch": self.epochs_at(self.step),
                        "seconds": round(self.spent, 1),
                        "device": self.device,
                        "precision": self.precision,
                    },
                }
            )
            stored = torch.float16 if self.config.checkpoint.dtype == "float16" else torch.float32
            try:
                with self.ema.applied(self.raw) if self.ema else nullcontext():
                    for name in (LAST, BEST) if best else (LAST,):
                        save_checkpoint(self.out / name, self.raw, meta, stored)
            except (ModelsError, OSError) as error:
                raise OutputError(f"The checkpoint cannot be written: {error}") from error
            save_torch(self._state(), self.out / STATE)
        self.fabric.barrier()

    def _state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, in tensors and plain values."""
        cuda = torch.cuda.get_rng_state_all() if self.device == "cuda" else []
        return {
            "recipe": json.dumps(self.config.fixed()),
            "step": self.step,
            "elapsed": self.spent,
            "model": self.raw.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "recent": self.recent,
            "metrics": self.metrics,
            "best_metrics": self.best_metrics,
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `_state` saved."""
        self.raw.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema is not None:
            self.ema.load_state_dict(**state["ema"])
        self.step = state["step"]
        self.elapsed = state["elapsed"]
        self.recent = dict(state["recent"])
        self.metrics = dict(state["metrics"])
        self.best_metrics = dict(state["best_metrics"])
        if self.fabric.global_rank == 0:
            torch.set_rng_state(state["rng"])
            if self.device == "cuda" and len(state["cuda_rng"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda_rng"])
        else:
            noise = (self.config.seed, self.fabric.global_rank, self.step)
            torch.manual_seed(int(np.random.SeedSequence(noise).generate_state(1)[0]))
        self.on_event(Finished("resume", f"after step {self.step}"))
