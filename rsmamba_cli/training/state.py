"""Files of a run: its exact state, its log, and what it was doing when it had to stop."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rsmamba_cli.errors import OutputError, ResumeError

STATE = "state.pt"
BEST = "best.safetensors"
LAST = "last.safetensors"
RECIPE = "recipe.yaml"
LOG = "log.jsonl"
REPORT = "report.html"
BAD_BATCH = "nonfinite_batch.pt"

COLUMNS = (
    "step",
    "epoch",
    "lr",
    "loss",
    "ce",
    "dice",
    "focal",
    "lovasz",
    "tversky",
    "aux",
    "grad_norm",
    "seconds",
    "val_nll",
    "val_precision",
    "val_recall",
    "val_f1",
    "val_iou",
    "val_oa",
    "val_kappa",
    "val_miou",
    "val_top1",
    "val_top5",
)
"""Of ``log.csv``; training lines leave the last ones empty, validation lines the middle ones."""


def save_torch(content: Mapping[str, Any], path: Path) -> None:
    """Save tensors and plain values; the file appears under its name only when complete.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        torch.save(dict(content), temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}") from error


def load_state(out: Path) -> dict[str, Any]:
    """Read the state of the run in ``out``; nothing in it is executed.

    Raises:
        ResumeError: there is none, or it cannot be read.
    """
    path = out / STATE
    if not path.is_file():
        raise ResumeError(f"There is no run to resume in {out}: it holds no {STATE}.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise ResumeError(f"{path} cannot be read: {error}") from error
    return state


def read_log(out: Path) -> list[dict[str, Any]]:
    """The lines of the log of the run in ``out``; none where there is no log."""
    path = out / LOG
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:  # a line that was being written when the run was killed
            continue
    return records


class RunLog:
    """The log of a run: ``log.csv`` for tables, ``log.jsonl`` with every figure.

    Args:
        out: the run's folder.
        resume_step: keep what is there up to this step and drop what a killed run wrote after
            its last saved state; None begins anew.
    """

    def __init__(self, out: Path, resume_step: int | None = None) -> None:
        self._csv = out / "log.csv"
        self._lines = out / LOG
        kept = []
        if resume_step is not None:
            kept = [record for record in read_log(out) if record["step"] <= resume_step]
        with self._lines.open("w", encoding="utf-8") as file:
            file.writelines(_json_line(record) for record in kept)
        with self._csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line to both files; NaN is left empty."""
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(_json_line(record))
        with self._csv.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, extrasaction="ignore").writerow(
                {k: "" if _undefined(v) else v for k, v in record.items()}
            )


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _json_line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON, which knows no NaN."""
    return json.dumps({k: None if _undefined(v) else v for k, v in record.items()}) + "\n"
