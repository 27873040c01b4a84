"""A disk that fills up or cannot be written leaves nothing half-written behind."""

import contextlib
import os
import random
import resource
import shutil
import subprocess

import numpy as np
import pytest

from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.events import Started
from rsmamba_cli.inference import PredictOptions, predict, running
from rsmamba_cli.inference.prepare import prepare

SIZES = {"scene": (400, 300), "tile": 64}


@pytest.fixture
def job(scene_factory, checkpoint_factory):
    """A scene whose outputs do not compress away, and the options to map it."""
    height, width = SIZES["scene"]
    scene = scene_factory(height=height, width=width)
    return scene, {"model": checkpoint_factory(tile=64), "overlap": 0.0, "threads": 1}


@contextlib.contextmanager
def small_disk(folder, kib):
    """A tmpfs of the given size, or a skip where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def largest_file(size):
    """No file of this process may grow beyond ``size`` bytes: a stand-in for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(job, output, **more):
    scene, options = job
    return predict(scene, output, PredictOptions(**options, **more))


def visible(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("kib", [12, 24, 36, 48, 60])
def test_a_full_disk_is_an_error_and_can_be_resumed(job, tmp_path, monkeypatch, trials, kib):
    monkeypatch.setattr(running, "_check_space", lambda *_: None)
    run(job, tmp_path / "calm.tif", probabilities=tmp_path / "calm_p.tif")
    with small_disk(tmp_path / "disk", kib) as disk:
        output, more = disk / "m.tif", {"probabilities": disk / "p.tif"}
        with pytest.raises(OutputError) as caught:
            run(job, output, **more)
        left = visible(disk)
        assert left in ([], ["m.tif.partial"])
        if left:
            assert "--resume" in str(caught.value)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        run(job, output, resume=True, **more)
        assert output.read_bytes() == (tmp_path / "calm.tif").read_bytes()
        assert (disk / "p.tif").read_bytes() == (tmp_path / "calm_p.tif").read_bytes()
        assert visible(disk) == ["m.tif", "p.tif"]
        trials["full disks"] += 1


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "workers"), [(20, 1), (1, 2)])
def test_disks_that_fill_up_at_random_moments(job, tmp_path, monkeypatch, trials, rounds, workers):
    monkeypatch.setattr(running, "_check_space", lambda *_: None)
    run(job, tmp_path / "calm.tif", probabilities=tmp_path / "calm_p.tif")
    expected = [(tmp_path / name).read_bytes() for name in ("calm.tif", "calm_p.tif")]
    rng = random.Random(workers)
    with small_disk(tmp_path / "disk", 64) as disk:
        output, more = disk / "m.tif", {"probabilities": disk / "p.tif", "workers": workers}
        for _ in range(rounds):
            size = rng.uniform(8, 64)
            for path in (output, more["probabilities"]):
                path.unlink(missing_ok=True)
            while not output.exists():
                subprocess.run(["mount", "-o", f"remount,size={size:.0f}k", str(disk)], check=True)
                try:
                    run(job, output, resume=True, **more)
                except OutputError:
                    trials["full disks"] += 1
                assert visible(disk) in ([], ["m.tif.partial"], ["m.tif", "p.tif"])
                size *= rng.uniform(1.1, 1.8)
            assert [path.read_bytes() for path in (output, more["probabilities"])] == expected


def test_a_disk_that_is_too_small_is_refused_before_any_work(job, tmp_path):
    with small_disk(tmp_path / "disk", 64) as disk:
        with pytest.raises(OutputError, match="are needed and"):
            run(job, disk / "m.tif", probabilities=disk / "p.tif")
        assert visible(disk) == []


def test_what_a_resumed_run_has_finished_does_not_have_to_fit_again(job, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(event):
        if isinstance(event, Started) and event.stage == "write":
            raise Stopped

    scene, options = job
    options = PredictOptions(**options, probabilities=tmp_path / "p.tif", resume=True)
    with pytest.raises(Stopped):
        predict(scene, tmp_path / "m.tif", options, stop)
    with contextlib.closing(prepare("segmentation", (str(scene),), options, print)) as prepared:
        needed = prepared.disk_forecast()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 10_000))
    with pytest.raises(OutputError, match="are needed"):
        predict(scene, tmp_path / "other.tif", options)
    predict(scene, tmp_path / "m.tif", options)


@pytest.mark.parametrize("size", [1 << 10, 1 << 12, 1 << 14])
def test_a_write_that_fails_anywhere_leaves_no_output(job, tmp_path, size):
    (tmp_path / "out").mkdir()
    with largest_file(size), pytest.raises(OutputError):
        run(job, tmp_path / "out" / "m.tif", probabilities=tmp_path / "out" / "p.tif")
    assert visible(tmp_path / "out") in ([], ["m.tif.partial"])


def test_a_failed_replacement_keeps_the_old_output(job, tmp_path):
    output = tmp_path / "m.tif"
    output.write_text("old")
    with largest_file(1 << 14), pytest.raises(OutputError):
        run(job, output, probabilities=tmp_path / "p.tif", overwrite=True)
    assert output.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(job, tmp_path):
    folder = tmp_path / "locked"
    if os.geteuid() == 0:
        with small_disk(folder, 64):
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            with pytest.raises(OutputError, match="cannot be written"):
                run(job, folder / "m.tif")
        return
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        run(job, folder / "m.tif")


def test_a_damaged_scene_leaves_nothing(job, tmp_path):
    scene, _ = job
    scene.write_bytes(scene.read_bytes()[:200_000])
    with pytest.raises(InputError, match=r"scene\.tif: rows"):
        run(job, tmp_path / "m.tif")
    assert visible(tmp_path) == ["scene.tif"]


def test_a_scene_that_does_not_compress_is_what_these_tests_need(job):
    scene, _ = job
    assert scene.stat().st_size > 3 * np.prod(SIZES["scene"])
