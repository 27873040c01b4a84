"""Dask workers that are killed at random moments of their work, and replaced at once.

One process imports everything and forks the workers, so that a kill costs no new imports. It is
told the scheduler's address, how many workers there are, the longest delay of a kill and a
seed; it prints a line for every worker that was killed, and ends with SIGTERM.
"""

import asyncio
import functools
import os
import random
import signal
import sys
import tempfile
import threading
import time

import torch
from distributed import Worker

from rsmamba_cli.inference import worker
from rsmamba_models import create_model


def work(address: str, patient: bool, delay: float, folder: str) -> None:
    """Be a worker until some time has passed, and die with a chunk in hand.

    Args:
        address: of the scheduler.
        patient: count from the first block that is committed, so that a run gets on; else from the
            first chunk that is begun.
        delay: seconds until the kill.
        folder: for the worker's files.
    """
    begun, at_work = threading.Event(), threading.Event()
    compute_chunk, put = worker.compute_chunk, worker.Blocks.put

    @functools.wraps(compute_chunk)
    def compute(*args, **options):
        if not patient:
            begun.set()
        at_work.set()
        try:
            return compute_chunk(*args, **options)
        finally:
            at_work.clear()

    def commit(*args):
        put(*args)
        begun.set()

    def die():
        begun.wait()
        time.sleep(delay)
        at_work.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    async def serve():
        async with Worker(
            address, nthreads=1, local_directory=folder, dashboard=False, memory_limit=0
        ) as served:
            await served.finished()

    # Tasks name the function, and find this one.
    worker.compute_chunk, worker.Blocks.put = compute, commit
    threading.Thread(target=die, daemon=True).start()
    asyncio.run(serve())


def start(address: str, patient: bool, delay: float, folder: str) -> int:
    """Fork a worker and return its process."""
    if child := os.fork():
        return child
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        work(address, patient, delay, folder)
    finally:
        os._exit(1)


def main(address: str, count: int, longest: float, seed: int) -> None:
    """Keep so many workers alive until this process is told to end."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        create_model("rsm_ss_nano")  # imports what loading a model needs
    rng = random.Random(seed)
    alive: set[int] = set()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        with tempfile.TemporaryDirectory() as folder:
            while True:
                while len(alive) < count:
                    patient, delay = rng.random() < 0.7, rng.uniform(0, longest)
                    alive.add(start(address, patient, delay, folder))
                ended, status = os.wait()
                alive.remove(ended)
                if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
                    print("killed", flush=True)
    finally:
        for child in alive:
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
