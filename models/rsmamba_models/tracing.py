"""Whether operators only run."""

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_recorded() -> bool:
    """Whether operators are traced, counted, or run on shapes without numbers.

    Then a module shows its plain form, and keeps nothing for later calls.
    """
    return torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
