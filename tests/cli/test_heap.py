"""What is asked of the C library's heap."""

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import torch
from rsmamba_cli import heap

heap.keep_freed(heap.TRAINING)
for _ in range(10):
    torch.ones(12 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(12 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_training_uses_the_memory_of_large_gradients_again():
    """Ten times 48 MiB are 122,880 pages of 4 KiB; glibc by itself would fetch all of them."""
    command = [sys.executable, "-c", PAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 122_880 / 10
