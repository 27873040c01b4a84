"""The process that ``memory`` starts: runs one form once and prints its peak as JSON."""

import gc
import json
import sys
from collections.abc import Mapping
from typing import Any

import torch

from rsmamba_cli.bench.workloads import build
from rsmamba_cli.resident import peak_bytes, reset_peak

_SMALL = {"side": 32, "tokens": 64}


def run(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"bytes": peak above what was there before, "note": ""}`` for a request."""
    kind, sizes, form = request["kind"], request["sizes"], request["form"]
    torch.set_num_threads(request["threads"])
    # What libraries set up at their first use is not the form's memory: a small run takes it away.
    small = {name: min(size, _SMALL.get(name, size)) for name, size in sizes.items()}
    try:
        build(kind, small).forms[form].call()
        gc.collect()
        call = build(kind, sizes).forms[form].call
        gc.collect()
        before = reset_peak()
        call()
    except MemoryError as error:
        return {"bytes": None, "note": str(error)}
    return {"bytes": max(0, peak_bytes() - before), "note": ""}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
