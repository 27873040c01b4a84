"""Workers that are killed again and again cost time, and no byte of the map."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rsmamba_cli.inference import PredictOptions, predict

OPTIONS = {"tile": 32, "threads": 1}
MORTAL = str(Path(__file__).with_name("mortal_workers.py"))


class Killer(threading.Thread):
    """Kills the worker that wrote the latest line of a journal, now and then.

    A worker is killed at most once for each block that it finishes, so that a run gets on.
    """

    def __init__(self, folder, seed):
        super().__init__(daemon=True)
        self.folder, self.rng = folder, random.Random(seed)
        self.kills = 0
        self.over = threading.Event()

    def run(self):
        sizes = {}
        while not self.over.wait(0.02):
            for journal in self.folder.glob("journal-*.jsonl"):
                try:
                    size = journal.stat().st_size
                except FileNotFoundError:  # the run is over
                    continue
                if size > sizes.get(journal, 0) and self.rng.random() < 0.7:
                    time.sleep(self.rng.uniform(0, 0.1))
                    try:
                        os.kill(int(journal.stem.rsplit("-", 2)[1]), signal.SIGKILL)
                        self.kills += 1
                    except ProcessLookupError:
                        pass
                sizes[journal] = size

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def __enter__(self):
        self.start()
        return self


@pytest.fixture
def job(scene_factory, checkpoint_factory, tmp_path):
    """A scene of 17 bands of windows, its options, and the mask of an undisturbed run."""
    scene = scene_factory(height=400, width=100)
    options = {**OPTIONS, "model": checkpoint_factory(tile=32)}
    predict(scene, tmp_path / "calm.tif", PredictOptions(**options))
    return scene, options, (tmp_path / "calm.tif").read_bytes()


def local_kills(job, output, kills):
    """Kill so many workers of local runs; every mask is the undisturbed one."""
    scene, options, expected = job
    found = runs = 0
    while found < kills:
        with Killer(output.with_name(output.name + ".partial"), seed=runs) as killer:
            predict(scene, output, PredictOptions(**options, workers=2, overwrite=True))
        assert output.read_bytes() == expected
        found, runs = found + killer.kills, runs + 1
        assert runs < 10 + kills
    return found


def cluster_kills(job, output, kills):
    """The same with a Dask cluster whose workers die of themselves."""
    distributed = pytest.importorskip("distributed")
    scene, options, expected = job
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'models'}", "OMP_NUM_THREADS": "1"}
    deaths = output.with_name("deaths.txt")
    runs = 0
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        command = [sys.executable, MORTAL, address, "2", "0.3", "3"]
        with deaths.open("w") as sink:
            workers = subprocess.Popen(command, env=environment, stdout=sink)
        try:
            while deaths.read_text().count("killed") < kills:
                predict(scene, output, PredictOptions(**options, scheduler=address, overwrite=True))
                assert output.read_bytes() == expected
                runs += 1
                assert runs < 10 + kills
        finally:
            workers.terminate()
            workers.wait()
    return deaths.read_text().count("killed")


@pytest.mark.slow
def test_twenty_kills_of_local_workers(job, tmp_path, trials):
    trials["kills of local worker processes"] += local_kills(job, tmp_path / "m.tif", 20)


def test_some_kills_of_cluster_workers(job, tmp_path, trials):
    trials["kills of Dask workers"] += cluster_kills(job, tmp_path / "m.tif", 3)


@pytest.mark.slow
def test_a_hundred_kills_of_cluster_workers(job, tmp_path, trials):
    trials["kills of Dask workers"] += cluster_kills(job, tmp_path / "m.tif", 100)
