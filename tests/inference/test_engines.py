"""The map is the same bytes, whoever computes it: this process, several, a cluster, or in parts."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from rsmamba_cli.errors import DeviceError, InputError, Interrupted, OutputError, ResumeError
from rsmamba_cli.inference import PredictOptions, merge, predict
from rsmamba_cli.inference import processes as processes_module

OPTIONS = {"tile": 32, "threads": 1}


@pytest.fixture
def model(checkpoint_factory):
    return checkpoint_factory(tile=32)


@pytest.fixture
def scene(scene_factory):
    return scene_factory(height=400, width=100)


@pytest.fixture
def alone(scene, model, tmp_path):
    """The bytes of mask and probabilities that one process makes."""
    return run(scene, tmp_path / "alone.tif", model)


def run(scene, output, model, **options):
    more = output.with_name(f"{output.stem}_p.tif")
    options = {**OPTIONS, "model": model, "probabilities": more, **options}
    predict(scene, output, PredictOptions(**options))
    return output.read_bytes(), more.read_bytes()


def part(scene, output, model, shard, **options):
    options = {**OPTIONS, "probabilities": output.with_name(f"{output.stem}_p.tif"), **options}
    return predict(scene, output, PredictOptions(model=model, shard=shard, **options))


def test_two_processes_make_the_same_bytes(scene, model, tmp_path, alone):
    assert run(scene, tmp_path / "m.tif", model, workers=2) == alone


def test_a_run_of_one_process_is_gone_on_with_by_two(scene, model, tmp_path, alone):
    def stop(event):
        if getattr(event, "stage", "") == "predict" and hasattr(event, "advance"):
            os.kill(os.getpid(), signal.SIGTERM)

    options = {**OPTIONS, "model": model, "probabilities": tmp_path / "m_p.tif"}
    stopped = 0
    while stopped < 3:
        with pytest.raises(Interrupted):
            predict(scene, tmp_path / "m.tif", PredictOptions(**options, resume=True), stop)
        stopped += 1
    assert run(scene, tmp_path / "m.tif", model, workers=2, resume=True) == alone


def test_a_killed_worker_is_replaced(scene, model, tmp_path, alone):
    folder = tmp_path / "m.tif.partial"
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for journal in folder.glob("journal-*.jsonl"):
                pid = int(journal.stem.rsplit("-", 2)[1])
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    made = run(scene, tmp_path / "m.tif", model, workers=2)
    killer.join()
    assert killed
    assert made == alone


def test_workers_that_always_die_end_the_run(scene, model, tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "_initialise", _die)
    with pytest.raises(DeviceError, match="died 3 times in a row"):
        run(scene, tmp_path / "m.tif", model, workers=2)
    assert not (tmp_path / "m.tif").exists()


def _die(*_):
    os._exit(1)


def test_what_goes_wrong_in_a_worker_is_said(scene, model, tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "_work", _complain)
    with pytest.raises(InputError, match="torn in half"):
        run(scene, tmp_path / "m.tif", model, workers=2)


def _complain(*_):
    raise InputError("torn in half")


@pytest.mark.parametrize("parts", [1, 3, 20])
def test_parts_merge_to_the_same_bytes(scene, model, tmp_path, alone, parts):
    for i in range(parts, 0, -1):
        part(scene, tmp_path / "m.tif", model, (i, parts))
    assert not (tmp_path / "m.tif").exists()
    merge(tmp_path / "m.tif")
    assert ((tmp_path / "m.tif").read_bytes(), (tmp_path / "m_p.tif").read_bytes()) == alone
    assert not (tmp_path / "m.tif.partial").exists()


def test_a_missing_part_is_not_merged(scene, model, tmp_path):
    part(scene, tmp_path / "m.tif", model, (1, 2))
    with pytest.raises(ResumeError, match="are not finished"):
        merge(tmp_path / "m.tif")
    part(scene, tmp_path / "m.tif", model, (2, 2))
    merge(tmp_path / "m.tif")


def test_a_run_without_a_part_finishes_what_is_missing(scene, model, tmp_path, alone):
    part(scene, tmp_path / "m.tif", model, (1, 3))
    assert run(scene, tmp_path / "m.tif", model, resume=True) == alone


def test_a_part_with_other_options_is_refused(scene, model, tmp_path):
    part(scene, tmp_path / "m.tif", model, (1, 2))
    with pytest.raises(ResumeError, match="blend"):
        part(scene, tmp_path / "m.tif", model, (2, 2), blend="average")


def test_a_part_done_twice_computes_nothing(scene, model, tmp_path):
    assert part(scene, tmp_path / "m.tif", model, (1, 2)).windows_computed > 0
    assert part(scene, tmp_path / "m.tif", model, (1, 2)).windows_computed == 0


def test_parts_may_run_with_another_memory(scene_factory, model, tmp_path):
    scene = scene_factory(height=100, width=3000)
    expected = run(scene, tmp_path / "alone.tif", model)
    for i, memory in ((1, "256MiB"), (2, "8GiB")):
        part(scene, tmp_path / "m.tif", model, (i, 2), memory=memory)
    merge(tmp_path / "m.tif")
    assert (tmp_path / "m.tif").read_bytes() == expected[0]


def test_parts_and_a_whole_run_refuse_each_other(scene, model, tmp_path):
    part(scene, tmp_path / "m.tif", model, (1, 2))
    record = {"host": "elsewhere", "pid": 1, "run": "x"}
    lock = tmp_path / "m.tif.partial" / "lock-shard-2-of-2"
    lock.write_text(json.dumps(record))
    with pytest.raises(OutputError, match="another run is writing here"):
        run(scene, tmp_path / "m.tif", model, resume=True)
    lock.rename(lock.with_name("lock"))
    with pytest.raises(OutputError, match="another run is writing here"):
        part(scene, tmp_path / "m.tif", model, (2, 2))


def test_nothing_to_merge_is_said(tmp_path):
    with pytest.raises(ResumeError, match="--shard I/N"):
        merge(tmp_path / "m.tif")


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    # Worker processes: a vanished one must not take the test with it.
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def test_a_cluster_makes_the_same_bytes_though_a_worker_vanishes(
    cluster, scene, model, tmp_path, alone
):
    address = cluster.scheduler_address
    assert run(scene, tmp_path / "m.tif", model, scheduler=address) == alone
    folder = tmp_path / "n.tif.partial"
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for journal in folder.glob("journal-*.jsonl"):
                killed.append(int(journal.stem.rsplit("-", 2)[1]))
                os.kill(killed[0], signal.SIGKILL)
                break
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    made = run(scene, tmp_path / "n.tif", model, scheduler=address)
    killer.join()
    assert killed
    assert made == alone


PAGES = """
import resource
import torch
from rsmamba_cli.inference.worker import keep_freed_memory

keep_freed_memory()
for _ in range(10):
    torch.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_a_cluster_s_worker_does_not_fetch_memory_from_the_kernel_again_and_again():
    """Twenty times 16 MiB are 81,920 pages of 4 KiB."""
    done = subprocess.run(
        [sys.executable, "-c", PAGES],
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 81_920 / 4


def test_a_scheduler_that_does_not_answer_is_named(scene, model, tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="nobody answers"):
        run(scene, tmp_path / "m.tif", model, scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"shard": (3, 2)}, {"workers": 2, "scheduler": "tcp://x:1"}]
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        PredictOptions(**wrong)


def test_options_survive_json():
    options = PredictOptions(model="/m.safetensors", bands=(3, 2, 1), bbox=(0, 1, 2, 3))
    again = PredictOptions.from_json(json.loads(json.dumps(options.to_json())))
    assert again.to_json() == options.to_json()
    assert again.bands == (3, 2, 1)
