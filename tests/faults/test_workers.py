"""Workers that are killed again and again cost time, and no byte of the map."""

import os
import random
import signal
import threading
import time

import pytest

from rsmamba_cli.inference import PredictOptions, predict

OPTIONS = {"tile": 32, "threads": 1}


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


def killed(job, output, kills, **how):
    """Run under fire until there were enough kills; every mask is the undisturbed one."""
    scene, options, expected = job
    found = runs = 0
    while found < kills:
        with Killer(output.with_name(output.name + ".partial"), seed=runs) as killer:
            predict(scene, output, PredictOptions(**options, **how, overwrite=True))
        assert output.read_bytes() == expected
        found, runs = found + killer.kills, runs + 1
        assert runs < 10 + kills
    print(f"{found} kills over {runs} runs")


@pytest.mark.slow
def test_forty_kills_of_local_workers(job, tmp_path):
    killed(job, tmp_path / "m.tif", 40, workers=2)


@pytest.mark.slow
def test_forty_kills_of_cluster_workers(job, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        killed(job, tmp_path / "m.tif", 40, scheduler=cluster.scheduler_address)
