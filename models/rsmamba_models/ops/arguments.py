"""What every back end of the scan takes: one record, checked once."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rsmamba_models.errors import ArgumentsError


class ScanArguments(NamedTuple):
    """The arguments of ``ops.directional_scan``, which says what they mean.

    Attributes:
        u: ``(B, L, D)`` channel-last map.
        delta: ``(B, K, L, D)`` raw steps.
        A: ``(K, D, N)`` decay rates.
        B: ``(B, K, L, N)`` input weights.
        C: ``(B, K, L, N)`` output weights.
        D: ``(K, D)`` skip weights, or None.
        delta_bias: ``(K, D)``, or None.
        order: ``(K, L)`` integers, each row a permutation of ``0..L-1``.
        delta_softplus: Whether the step goes through softplus.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    delta_bias: Tensor | None
    order: Tensor
    delta_softplus: bool

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """The arguments that have gradients, in the order in which ``backward`` returns them."""
        return self[:7]

    @property
    def state_dtype(self) -> torch.dtype:
        """Of the state and of every accumulation: float64 for float64 ``u``, else float32."""
        return torch.float64 if self.u.dtype == torch.float64 else torch.float32

    def to(self, device: torch.device, dtype: torch.dtype) -> "ScanArguments":
        """All on one device, all but the order in one dtype."""
        moved = self.with_differentiable(
            None if t is None else t.to(device, dtype) for t in self.differentiable
        )
        return moved._replace(order=self.order.to(device))

    def with_differentiable(self, tensors: Iterable[Tensor | None]) -> "ScanArguments":
        """The same scan of other tensors, given in the order of ``differentiable``."""
        names = ScanArguments._fields
        given: dict[str, Any] = dict(zip(names, tensors, strict=False))
        return self._replace(**given)

    def check(self) -> None:
        """Refuse shapes that do not fit together and dtypes that no back end takes.

        Raises:
            ArgumentsError: Names the argument, what it is and what the others ask for.
        """
        u, A, order = self.u, self.A, self.order
        if u.dim() != 3 or A.dim() != 3 or order.dim() != 2:
            raise ArgumentsError(
                "a scan takes u (B, L, D), A (K, D, N) and order (K, L), not shapes "
                f"{tuple(u.shape)}, {tuple(A.shape)} and {tuple(order.shape)}"
            )
        if not u.is_floating_point() or not A.is_floating_point():
            raise ArgumentsError(f"a scan takes real floating point, not {u.dtype} and {A.dtype}")
        if order.is_floating_point():
            raise ArgumentsError(f"order must be integers, not {order.dtype}")
        batch, length, channels = u.shape
        directions, _, states = A.shape
        wanted = {
            "delta": (batch, directions, length, channels),
            "A": (directions, channels, states),
            "B": (batch, directions, length, states),
            "C": (batch, directions, length, states),
            "D": (directions, channels),
            "delta_bias": (directions, channels),
            "order": (directions, length),
        }
        for name, shape in wanted.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ArgumentsError(
                    f"{name} has shape {tuple(tensor.shape)}, but u {tuple(u.shape)} and "
                    f"A {tuple(A.shape)} ask for {shape}"
                )
