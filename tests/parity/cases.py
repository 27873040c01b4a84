"""Loading parity cases, and the one comparison that they all use."""

from pathlib import Path

import fill
import numpy as np
import torch

DATA = Path(__file__).parent / "data"


class Case:
    """A parity case: manifest, official state dict, inputs and expected arrays."""

    def __init__(self, family, name):
        self.manifest, self.arrays = fill.load(DATA / family / f"{name}.json")
        self.inputs = {k: torch.from_numpy(v) for k, v in fill.inputs(self.manifest).items()}

    def state_dict(self):
        stored = (key for key in self.arrays if key.startswith("stored/"))
        return fill.state_dict(self.manifest) | {
            key.removeprefix("stored/"): self.arrays[key] for key in stored
        }

    def check(self, name, ours, tolerance=None):
        """The relative error of one output; fails above the manifest's tolerance."""
        error = relative_error(ours, self.arrays[name])
        allowed = self.manifest["tolerance"] if tolerance is None else tolerance
        assert error <= allowed, f"{name}: relative error {error:.2e} > {allowed:.0e}"
        return error


def relative_error(ours, official):
    if isinstance(ours, torch.Tensor):
        ours = ours.detach().numpy()
    assert ours.shape == official.shape, f"shape {ours.shape}, official {official.shape}"
    difference = np.linalg.norm(ours.astype(np.float64) - official)
    return float(difference / max(np.linalg.norm(official.astype(np.float64)), 1e-30))
