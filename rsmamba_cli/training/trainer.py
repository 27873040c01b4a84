"""The course of a training run: steps, validations, checkpoints, and when it ends."""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsmamba_cli.errors import Interrupted, OutputError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned
from rsmamba_cli.inference.interrupt import interruptible
from rsmamba_cli.report.text import write_text
from rsmamba_cli.resident import peak_bytes
from rsmamba_cli.training.data import make_loader, worker_count
from rsmamba_cli.training.job import Job
from rsmamba_cli.training.recipe import RunConfig
from rsmamba_cli.training.results import TrainResult
from rsmamba_cli.training.state import BEST, LAST, REPORT, STATE, RunLog, save_torch
from rsmamba_cli.training.stepper import Stepper
from rsmamba_models import ModelsError, save_checkpoint

_WARM_UPS = 4
"""A training shorter than so many warm-ups has hardly begun when it ends."""


class Trainer:
    """One process of a training run."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        job: Job,
        fabric: Any,
        where: tuple[str, str],
        on_event: EventHandler,
    ) -> None:
        self.config = config
        self.out = out
        self.job = job
        self.fabric = fabric
        self.device, self.precision = where
        self.on_event = on_event
        self.log: RunLog | None = None
        # The weights are the same in every process from here on, the noise is not.
        noise = np.random.SeedSequence((config.seed, fabric.global_rank))
        torch.manual_seed(int(noise.generate_state(1)[0]))
        self.stream = job.stream
        self.validator = job.validator
        self.stepper = Stepper(config, job.model, job.objective, fabric, self.precision, out)
        self.monitor = job.monitor
        self.elapsed = self.clock = 0.0
        self.started = time.monotonic()
        self.recent: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.best_metrics: dict[str, float] = {}
        self.stale = 0

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.stepper.step

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

    def _done(self) -> bool:
        """Whether the length, the time or the lack of progress ends the training."""
        patience = self.config.loop.patience
        return self.progress() >= 1 or (patience is not None and self.stale >= patience)

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
        done, limited = self._done(), False
        self.on_event(
            Started(stage, None if math.isinf(self.total) else int(self.total) - first, "step")
        )
        if self.total < _WARM_UPS * self.config.schedule.warmup_steps:
            self.on_event(
                Warned(
                    f"The whole training has {self.total:.0f} steps, of which "
                    f"{self.config.schedule.warmup_steps} warm up: little will be learnt. Set "
                    "loop.steps (and loop.epochs=none); the recipe small-data has."
                )
            )
        loader = iter(
            make_loader(
                self.stream,
                self.step * self.config.optimiser.accumulate,
                worker_count(self.job.workers, self.device == "cuda"),
                self.device == "cuda",
            )
        )
        with interruptible() as check:
            while not done and not limited:
                sums = self.stepper.advance(loader, self.progress(), self.total)
                self._note(sums)
                stop = self._tick(check)
                done = self._done()
                limited = loop.limit_steps is not None and self.step - first >= loop.limit_steps
                if self._validation_due(done):
                    self._validate()
                    done = self._done()
                    saved = self.clock
                elif limited or stop or self.clock - saved > 60 * loop.save_every_minutes:
                    self._save(best=False)
                    saved = self.clock
                self.on_event(Progress(stage, detail=self._words(sums)))
                if stop and not done:
                    raise Interrupted(
                        f"{stop} after step {self.step}; go on with --resume --out {self.out}"
                    )
        shown = self.best_metrics.get(self.monitor)
        best = "" if shown is None else f", best {self.monitor} {shown:.4f}"
        early = " (no better for a while)" if done and self.progress() < 1 else ""
        self.on_event(Finished(stage, f"{self.step} steps in {self.spent:.0f} s{best}{early}"))
        self.fabric.barrier()
        return self._result(finished=not limited or done)

    def _result(self, finished: bool) -> TrainResult:
        """What the run has led to so far."""
        path = self.out / BEST
        gpu = self.device == "cuda"
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
            finished=finished,
            device=self.device,
            precision=self.precision,
            peak_memory_bytes=(
                torch.cuda.max_memory_allocated(self.fabric.device) if gpu else peak_bytes()
            ),
        )

    def _words(self, sums: dict[str, float]) -> str:
        """The state of training in a few words."""
        score = self.metrics.get(self.monitor)
        tail = "" if score is None else f", {self.monitor} {score:.3f}"
        return f"loss {sums['loss']:.3f}{tail}"

    def _note(self, sums: dict[str, float]) -> None:
        """Add a step to the running means and write them every so often."""
        rate = sums.pop("lr")
        self.recent["count"] = self.recent.get("count", 0) + 1
        for name, value in sums.items():
            self.recent[name] = self.recent.get(name, 0.0) + value
        if self.step % self.config.loop.log_every and self.step < self.total:
            return
        count = self.recent.pop("count")
        means = {name: total / count for name, total in self.recent.items()}
        self.recent = {}
        if self.fabric.world_size > 1:
            mine = torch.tensor(list(means.values()), device=self.fabric.device)
            shared = self.fabric.all_reduce(mine, reduce_op="mean").tolist()
            means = dict(zip(means, shared, strict=True))
        self._write({"lr": rate, **means})

    def _write(self, figures: dict[str, float]) -> None:
        """A line in the log, and the figures to other loggers."""
        if self.log is None:
            return
        self.log.write(
            {
                "step": self.step,
                "epoch": self.epochs_at(self.step),
                **figures,
                "seconds": round(self.spent, 3),
            }
        )
        defined = {name: value for name, value in figures.items() if math.isfinite(value)}
        self.fabric.log_dict(defined, self.step)

    def _validation_due(self, done: bool) -> bool:
        """Whether the split is to be measured after this step."""
        loop = self.config.loop
        if self.validator is None:
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
        """Measure the validation split and save."""
        if self.validator is None:
            self._save(best=False)
            return
        stage = f"validate step {self.step}"
        stepper = self.stepper
        stepper.check_buffers()
        with stepper.ema.applied(stepper.raw) if stepper.ema else nullcontext():
            self.metrics = self.validator.measure(stepper.raw, self.step, stage)
        score = self.metrics[self.monitor]
        better = score > self.best_metrics.get(self.monitor, -math.inf)
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best_metrics = dict(self.metrics)
        stepper.schedule.validated(score)
        self._write({f"val_{name}": value for name, value in self.metrics.items()})
        self._save(best=better)
        self.on_event(Finished(stage, f"{self.monitor} {score:.4f}{' (best)' if better else ''}"))

    def _save(self, best: bool) -> None:
        """Write the checkpoints and the state."""
        noise = self._noise_states()
        if self.fabric.is_global_zero:
            meta = self.job.meta
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
            raw, ema = self.stepper.raw, self.stepper.ema
            try:
                with ema.applied(raw) if ema else nullcontext():
                    for name in (LAST, BEST) if best else (LAST,):
                        save_checkpoint(self.out / name, raw, meta, stored)
            except (ModelsError, OSError) as error:
                raise OutputError(f"The checkpoint cannot be written: {error}") from error
            save_torch({**self._state(), "noise": noise}, self.out / STATE)
            page = self.job.page(self._result(finished=self._done()))
            if page is not None:
                write_text(self.out / REPORT, page)
        self.fabric.barrier()

    def _state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, in tensors and plain values."""
        return {
            **self.stepper.state_dict(),
            "recipe": json.dumps(self.config.fixed()),
            "elapsed": self.spent,
            "recent": self.recent,
            "metrics": self.metrics,
            "best_metrics": self.best_metrics,
            "stale": self.stale,
        }

    def _noise_states(self) -> list[list[torch.Tensor]]:
        """The states of PyTorch's generators, a list a process: of the CPU, of its GPU."""
        mine = [torch.get_rng_state()]
        if self.device == "cuda":
            mine.append(torch.cuda.get_rng_state(self.fabric.device))
        if self.fabric.world_size == 1:
            return [mine]
        gathered = [self.fabric.all_gather(state.to(self.fabric.device)).cpu() for state in mine]
        # Clones, because a generator cannot take a part of a larger tensor.
        return [[state.clone() for state in states] for states in zip(*gathered, strict=True)]

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `_state` saved."""
        self.stepper.load_state_dict(state)
        self.elapsed = state["elapsed"]
        self.recent = dict(state["recent"])
        self.metrics = dict(state["metrics"])
        self.best_metrics = dict(state["best_metrics"])
        self.stale = state["stale"]
        noise = state["noise"][self.fabric.global_rank]
        torch.set_rng_state(noise[0])
        if self.device == "cuda" and len(noise) > 1:
            torch.cuda.set_rng_state(noise[1], self.fabric.device)
        self.on_event(Finished("resume", f"after step {self.step}"))
