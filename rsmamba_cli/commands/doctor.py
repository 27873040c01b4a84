"""``rsmamba doctor``: is everything there, and what will be used."""

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rsmamba_cli.commands.flags import Output, command_app, spread_flags
from rsmamba_cli.console import Console, running, size
from rsmamba_cli.errors import RsmambaError

app = command_app()

_ESSENTIAL = ("torch", "numpy", "rasterio", "safetensors", "pydantic", "lightning-fabric")
_OPTIONAL = (
    *("pyogrio", "shapely", "pyarrow"),
    *("triton", "mamba-ssm", "causal-conv1d", "mlstm_kernels", "natten"),
)


@app.command()
@spread_flags
def doctor(*, out: Output) -> None:
    """Show versions, devices and back ends, and what slows them down.

    Exit status 0, unless something that every command needs is broken.
    """
    with running(**out.settings()) as console:
        broken: list[str] = []
        data: dict[str, Any] = {
            "versions": _versions(broken),
            "devices": _devices(broken),
            "ops": _ops(broken),
            "checkpoints": _checkpoints(broken),
            "places": _places(broken),
            "broken": broken,
        }
        console.result(data, lambda: _show(console, data))
        if broken:
            raise RsmambaError("; ".join(broken))


def _versions(broken: list[str]) -> dict[str, str]:
    from rsmamba_cli import __version__

    found = {
        "rsmamba": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in (*_ESSENTIAL, *_OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
            if name in _ESSENTIAL:
                broken.append(f"{name} is not installed: reinstall rsmamba")
    try:
        import rasterio

        found["gdal"] = rasterio.__gdal_version__
    except ImportError as error:
        broken.append(f"rasterio cannot be imported ({error})")
    return found


def _devices(broken: list[str]) -> dict[str, str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        broken.append(f"torch cannot be imported ({error})")
        return {}
    found = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found[f"cuda:{index}"] = f"{about.name}, {size(about.total_memory)}"
    elif torch.version.cuda is None:
        found["cuda"] = "none: this build of torch is for the CPU only"
    else:
        found["cuda"] = f"none: torch is built for CUDA {torch.version.cuda}, but no GPU answers"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def _ops(broken: list[str]) -> dict[str, Any]:
    """Per op, the form that each kind of device will use and what keeps the others from it."""
    try:
        import torch

        from rsmamba_models.ops.backends import ATTENTION, MLSTM, SCAN
    except (ImportError, OSError):
        return {}
    found: dict[str, Any] = {}
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for op in (SCAN, MLSTM, ATTENTION):
        used: dict[str, str] = {}
        forms: dict[str, str] = {}
        for device in devices:
            long = torch.zeros(1, 1, 4096, 1, device=device)  # as many steps as a small map has
            try:
                used[device] = op.resolve(long)
            except Exception as error:
                # A variable may force a form that does not work here: the user should see that.
                used[device] = f"none ({error})"
                broken.append(str(error))
            for name in op.forms:
                state = op.why_not(name, long) or "usable"
                if forms.get(name) != "usable":
                    forms[name] = state
        forced = os.environ.get(op.environment, "")
        found[op.name] = {
            "used": used,
            "forms": forms,
            "variable": op.environment,
            "forced": forced,
        }
    return found


def _checkpoints(broken: list[str]) -> dict[str, str]:
    """Load the embedded checkpoints, which verifies their hashes."""
    found: dict[str, str] = {}
    for task in ("segmentation", "change"):
        try:
            from rsmamba_cli.assets import demo_checkpoint
            from rsmamba_models import load_checkpoint

            path = demo_checkpoint(task)
            _, meta = load_checkpoint(path)
        except Exception as error:
            found[task] = f"not usable: {error}"
            broken.append(f"the embedded checkpoint for {task} cannot be used ({error})")
        else:
            stored = size(path.stat().st_size)
            found[task] = f"{meta.architecture}, {stored}, sha256 {meta.sha256[:12]} verified"
    return found


def _places(broken: list[str]) -> dict[str, str]:
    found = {"python": sys.executable, "package": str(Path(__file__).parents[1])}
    for name, folder in (("temporary files", Path(tempfile.gettempdir())), ("here", Path.cwd())):
        try:
            with tempfile.TemporaryFile(dir=folder):
                state = f"{size(shutil.disk_usage(folder).free)} free"
        except OSError as error:
            state = f"not writable ({error.strerror})"
            if name == "temporary files":
                broken.append(f"{folder}: temporary files cannot be written ({error.strerror})")
        found[name] = f"{folder}: {state}"
    return found


def _show(console: Console, data: dict[str, Any]) -> None:
    console.properties("versions", data["versions"])
    console.properties("devices", data["devices"])
    for name, op in data["ops"].items():
        rows = {f"{device} uses": form for device, form in op["used"].items()} | op["forms"]
        if op["forced"]:
            rows[op["variable"]] = op["forced"]
        console.properties(name, rows)
    console.properties("embedded checkpoints", data["checkpoints"])
    console.properties("places", data["places"])
