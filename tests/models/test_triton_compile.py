"""The Triton kernels compiled for GPUs, without one: Triton brings its own assembler.

A compiled kernel is no proof that it is right, but what the interpreter lets pass and the compiler
does not (types, layouts, loops that change a type) shows here.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

# Kernels cannot be compiled in a process whose Triton interprets them.
SCRIPT = """
import inspect, json, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rsmamba_models.ops import triton_gradient, triton_kernels

capability, half, states = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
outer = dict.fromkeys(("x", "u", "delta", "weight", "B", "C", "grad_y", "ddelta"), half)
whole = dict.fromkeys(("order", "pairs"), "i32")
single = "rates bias skip state total out parts adjoint scratch du dB dC dbias".split()
wanted = {
    "chunk_state": {"ADJOINT": False},
    "carry": {"ADJOINT": False, "E": 128},
    "chunk_scan": {"FROM_ZERO": False, "SKIP": False, "skip": None},
    "merge": {"SKIP": True, "E": 1024},
    "chunk_backward": {"UNROLL": 4},
}
common = {"BIAS": True, "SOFTPLUS": True, "SIDES": 2, "NP": states, "BD": 32, "ACC": tl.float32}
sizes = {}
for name, more in wanted.items():
    kernel = getattr(triton_kernels, name, None) or getattr(triton_gradient, name)
    signature, constants = {}, {}
    for i, argument in enumerate(inspect.signature(kernel.fn).parameters):
        pointer = {**outer, **whole}.get(argument, "fp32")
        if argument in {**common, **more}:
            signature[argument] = "constexpr"
            constants[(i,)] = {**common, **more}[argument]
        elif argument in {**outer, **whole} or argument in single:
            signature[argument] = "*" + pointer
        else:
            signature[argument] = "i32"
    source = ASTSource(kernel, signature, constants, {})
    target = GPUTarget("cuda", capability, 32)
    sizes[name] = len(triton.compile(source, target=target, options={"num_warps": 1}).asm["cubin"])
print(json.dumps(sizes))
"""


@pytest.mark.parametrize(("capability", "half", "states"), [(90, "bf16", 16), (80, "fp16", 1)])
def test_every_kernel_compiles(capability, half, states, tmp_path):
    models = Path(__file__).parents[2] / "models"
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(models),
    }
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(capability), half, str(states)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    sizes = json.loads(run.stdout)
    assert len(sizes) == 5
    assert all(sizes.values())
