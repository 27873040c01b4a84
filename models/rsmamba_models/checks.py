"""Arguments that make no network, refused before anything is built."""

from collections.abc import Sequence

from rsmamba_models.errors import ArgumentsError


def check_counts(**values: int | Sequence[int]) -> None:
    """Refuse what is not a whole number from 1 to 65536, or a non-empty sequence of such.

    Raises:
        ArgumentsError: Names the argument.
    """
    for name, value in values.items():
        numbers = list(value) if isinstance(value, Sequence) else [value]
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        if not numbers or not whole or min(numbers) < 1 or max(numbers) > 65536:
            raise ArgumentsError(f"{name}: whole numbers from 1 are wanted, not {value!r}")


def check_rates(**values: float) -> None:
    """Refuse probabilities of dropping that are not in [0, 1).

    Raises:
        ArgumentsError: Names the argument.
    """
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
            raise ArgumentsError(f"{name} is in [0, 1), not {value!r}")


def check_epsilons(**values: float) -> None:
    """Refuse epsilons of norms that are not in (0, 1).

    Raises:
        ArgumentsError: Names the argument.
    """
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0.0 < value < 1.0:
            raise ArgumentsError(f"{name} is in (0, 1), not {value!r}")
