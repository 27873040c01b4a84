"""Deterministic weights for parity cases: the same on every machine, from a key's name alone.

A parity case is a folder entry `<case>.json` (the manifest) beside `<case>.npz` (arrays).
The manifest lists every tensor of the official state dict as `key: [shape, kind]`;
`state_dict(manifest)` rebuilds that state dict, so that no weights need storing. `inputs(manifest)`
rebuilds the input tensors. The npz holds what the official model returned for exactly those weights
and inputs, in float32 on a CPU.
"""

import json
import zlib
from pathlib import Path

import numpy as np


def _normal(key, shape):
    # RandomState is frozen by NumPy's compatibility policy, unlike default_rng.
    return np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)


def fill(key, shape, kind):
    """One tensor as a numpy array (float32, or int64 for `count`)."""
    shape = tuple(shape)
    x = _normal(key, shape)
    if kind == "weight":  # linear and convolution kernels, embeddings: unit-variance outputs
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        x = x / np.sqrt(max(fan_in, 1))
    elif kind == "norm_weight" or kind == "d_skip":  # normalisation gains, SSM skip D
        x = 1.0 + 0.1 * x
    elif kind == "bias" or kind == "mean":  # biases, running means
        x = 0.1 * x
    elif kind == "var":  # running variances
        x = 1.0 + 0.1 * np.abs(x)
    elif kind == "small":  # positional embeddings, layer scales, gates
        x = 0.02 * x
    elif kind == "a_log":  # last axis = state index n: A = -exp(A_log) close to -(n + 1)
        x = np.log(np.arange(1, shape[-1] + 1)) + 0.1 * x
    elif kind == "dt_bias":  # inverse softplus of a step between 1e-3 and 1e-1
        u = 1.0 / (1.0 + np.exp(-x))
        dt = np.exp(np.log(1e-3) + u * (np.log(1e-1) - np.log(1e-3)))
        x = dt + np.log(-np.expm1(-dt))
    elif kind == "count":
        return np.zeros(shape, dtype=np.int64)
    elif kind == "zero":
        x = np.zeros(shape)
    elif kind == "one":
        x = np.ones(shape)
    else:
        raise ValueError(f"{key}: unknown kind {kind!r}")
    return np.asarray(x, dtype=np.float32)


def state_dict(manifest):
    """Official state dict as {key: numpy array}; 'stored' ones are in the npz: 'stored/KEY'."""
    return {
        k: fill(k, s, kind) for k, (s, kind) in manifest["state_dict"].items() if kind != "stored"
    }


def inputs(manifest):
    """Input arrays as {name: float32 array}, standard normal, seeded by 'input/<case>/<name>'."""
    return {
        n: _normal(f"input/{manifest['case']}/{n}", tuple(s)).astype(np.float32)
        for n, s in manifest["inputs"].items()
    }


def load(path):
    """Manifest and arrays of one case: path of the .json."""
    manifest = json.loads(Path(path).read_text())
    arrays = dict(np.load(str(path)[:-5] + ".npz"))
    return manifest, arrays
