"""The choice among several forms of one op: the caller's, else the environment's, else the op's."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from rsmamba_models.errors import BackendError


@dataclass(frozen=True)
class Forms:
    """The forms of one op.

    Attributes:
        op: The op's name, for messages.
        environment: The variable that names the form to use where the caller names none.
        why_not: Per form, a function that tells why it cannot run on this machine ("" if it can).
    """

    op: str
    environment: str
    why_not: Mapping[str, Callable[[], str]]

    def available(self) -> dict[str, str]:
        """Every form's name, with "" when it is usable here, else the reason why it is not."""
        return {name: reason() for name, reason in self.why_not.items()}

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def resolve(self, requested: str) -> str:
        """The form asked for: ``requested``, or the environment's where that is ``"auto"``.

        Returns:
            The name of a usable form, or ``"auto"`` when nobody names one.

        Raises:
            BackendError: The name is unknown or the form cannot run on this machine.
        """
        source = "asked for"
        if requested == "auto":
            requested = os.environ.get(self.environment) or "auto"
            source = f"set by {self.environment}"
        if requested == "auto":
            return requested
        if requested not in self.why_not:
            known = ", ".join(["auto", *self.why_not])
            raise BackendError(
                f"{self.op} form {requested!r} ({source}) is unknown; known: {known}"
            )
        if reason := self.why_not[requested]():
            raise BackendError(f"{self.op} form {requested!r} ({source}) is not usable: {reason}")
        return requested


def always() -> str:
    """The reason why a form that runs everywhere cannot be used: none."""
    return ""
