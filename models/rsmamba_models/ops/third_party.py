"""GPU kernels of other packages, which run only when asked for by name.

``mlstm_kernels`` (Triton; its licence restricts some commercial use) and ``natten`` (neighbourhood
attention without a bias table) are no dependencies: each is imported at its first use, and held
against our own form there, once per dtype and head size, gradients included. A kernel that
disagrees is refused with the figure; it never replaces ours silently.
"""

import importlib
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_models.errors import BackendError

# Relative errors that the dtypes' own rounding can cause (float32 products may run as TF32).
_TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
_MLSTM_CHUNK = 128
_verdicts: dict[tuple[object, ...], str] = {}


def why_not(package: str) -> str:
    """Why the kernels of ``package`` cannot run on this machine; "" if they can."""
    if not torch.cuda.is_available():
        return "it needs a CUDA device"
    if importlib.util.find_spec(package) is None:
        return f"the package {package} is not installed"
    return ""


def mlstm_kernels(
    ours: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_gate: Tensor,
    f_gate: Tensor,
    eps: float,
) -> Tensor:
    """The mLSTM by the package of that name; arguments and result as for ``ops.mlstm.mlstm``.

    Args:
        ours: Our function of the same five tensors, to compare with at the first use.
        q: As for ``mlstm``, like the tensors that follow.
        k: Keys.
        v: Values.
        i_gate: Input gates.
        f_gate: Forget gates.
        eps: Added to the normaliser.

    Raises:
        BackendError: The kernel fails or disagrees.
    """
    kernel = importlib.import_module("mlstm_kernels.torch").get_mlstm_kernel(
        "chunkwise--triton_xl_chunk"
    )

    def theirs(q: Tensor, k: Tensor, v: Tensor, i_gate: Tensor, f_gate: Tensor) -> Tensor:
        # The kernel takes whole chunks only. What is appended comes later than all that counts.
        length = q.shape[2]
        more = -length % _MLSTM_CHUNK
        q, k, v = (F.pad(t, (0, 0, 0, more)).contiguous() for t in (q, k, v))
        i_gate, f_gate = (F.pad(t, (0, more)).contiguous() for t in (i_gate, f_gate))
        h: Tensor = kernel(
            q=q,
            k=k,
            v=v,
            i=i_gate,
            f=f_gate,
            eps=eps,
            chunk_size=_MLSTM_CHUNK,
            autocast_kernel_dtype=q.dtype,
        )
        return h[:, :, :length]

    steps = 2 * _MLSTM_CHUNK + 1
    shapes = ((1, 2, steps, q.shape[3]),) * 2 + ((1, 2, steps, v.shape[3]),) + ((1, 2, steps),) * 2
    _compare("mlstm_kernels", ours, theirs, shapes, q)
    return theirs(q, k, v, i_gate, f_gate)


def natten(
    ours: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, kernel_size: int, scale: float
) -> Tensor:
    """Neighbourhood attention without bias by the package of that name.

    Args:
        ours: Our function of the same three tensors, to compare with at the first use.
        q: ``(B, heads, H, W, D)`` as for ``ops.neighborhood``, like the tensors that follow.
        k: Keys.
        v: Values.
        kernel_size: Window side, at most H and W.
        scale: Factor of the products of q and k.

    Raises:
        BackendError: The kernel fails or disagrees.
    """
    na2d = importlib.import_module("natten").na2d

    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        last = (t.permute(0, 2, 3, 1, 4).contiguous() for t in (q, k, v))
        y: Tensor = na2d(*last, kernel_size=kernel_size, scale=scale)
        return y.permute(0, 3, 1, 2, 4)

    side = kernel_size + 9
    _compare("natten", ours, theirs, ((1, 2, side, side + 3, q.shape[4]),) * 3, q, kernel_size)
    return theirs(q, k, v)


def _compare(
    package: str,
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    shapes: tuple[tuple[int, ...], ...],
    like: Tensor,
    *options: object,
) -> None:
    """Raise unless ``theirs`` agrees with ``ours`` for this dtype and these shapes; remembered."""
    key = (package, shapes, like.dtype, like.device, *options)
    if key not in _verdicts:
        _verdicts[key] = _verdict(ours, theirs, shapes, like)
    if reason := _verdicts[key]:
        raise BackendError(f"the kernel of {package} was refused: {reason}")


def _verdict(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    shapes: tuple[tuple[int, ...], ...],
    like: Tensor,
) -> str:
    tolerance = _TOLERANCES.get(like.dtype)
    if tolerance is None:
        return f"{like.dtype} is not among {', '.join(map(str, _TOLERANCES))}"
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(s, generator=generator).to(like) for s in shapes]
    results = []
    for function, dtype in ((ours, torch.float32), (theirs, like.dtype)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in values]
        try:
            with torch.enable_grad():
                output = function(*inputs)
                results.append(
                    [output.detach(), *torch.autograd.grad(output.square().sum(), inputs)]
                )
        except Exception as error:  # whatever a foreign kernel may raise
            return f"it fails on a small case ({type(error).__name__}: {error})"
    worst = max(
        float((x.float() - y.float()).norm() / x.float().norm())
        for x, y in zip(*results, strict=True)
    )
    if not worst <= tolerance:
        return f"it differs from ours by {worst:.1e} (allowed {tolerance:.0e} in {like.dtype})"
    return ""
