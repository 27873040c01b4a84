"""Whenever a run stops, nothing is lost but the band at work, and the result is the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from rsmamba_cli.errors import Interrupted, OutputError, ResumeError
from rsmamba_cli.events import Progress, Started
from rsmamba_cli.inference import PredictOptions, predict

OPTIONS = {"tile": 32, "batch_size": 2, "threads": 1}


@pytest.fixture
def model(checkpoint_factory):
    return checkpoint_factory(tile=32)


@pytest.fixture
def scene(scene_factory):
    return scene_factory(height=130, width=70)


@pytest.fixture
def undisturbed(scene, model, tmp_path):
    """The bytes of the mask and probabilities of a run that nothing happened to."""
    run(scene, tmp_path / "calm.tif", model, probabilities=tmp_path / "calm_p.tif")
    found = (tmp_path / "calm.tif").read_bytes(), (tmp_path / "calm_p.tif").read_bytes()
    (tmp_path / "calm.tif").unlink()
    (tmp_path / "calm_p.tif").unlink()
    return found


def run(scene, output, model, on_event=lambda event: None, **options):
    return predict(scene, output, PredictOptions(model=model, **{**OPTIONS, **options}), on_event)


class StopAfter:
    """An event handler that sends this process a signal after some progress."""

    def __init__(self, stage, count, number=signal.SIGTERM):
        self.stage, self.left, self.number = stage, count, number

    def __call__(self, event):
        if isinstance(event, Progress) and event.stage == self.stage:
            self.left -= event.advance
            if self.left <= 0:
                self.left = 10**9
                os.kill(os.getpid(), self.number)


def results(tmp_path):
    return (tmp_path / "m.tif").read_bytes(), (tmp_path / "p.tif").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("windows", [1, 4, 7, 10, 13, 17])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    scene, model, tmp_path, undisturbed, number, windows
):
    more = {"probabilities": tmp_path / "p.tif"}
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught:
        run(scene, tmp_path / "m.tif", model, StopAfter("predict", windows, number), **more)
    assert not (tmp_path / "m.tif").exists()
    kept = (tmp_path / "m.tif.partial").exists()
    assert kept == ("--resume" in str(caught.value))
    result = run(scene, tmp_path / "m.tif", model, resume=True, **more)
    assert results(tmp_path) == undisturbed
    assert not (tmp_path / "m.tif.partial").exists()
    if windows >= 7:
        # Two bands are kept; going on needs the row of windows above the third once more.
        assert kept
        assert result.windows_computed < result.windows


def test_a_run_stopped_again_and_again_gets_there(scene, model, tmp_path, undisturbed):
    more = {"probabilities": tmp_path / "p.tif", "resume": True}
    stops = 0
    while not (tmp_path / "m.tif").exists():
        try:
            run(scene, tmp_path / "m.tif", model, StopAfter("predict", 9), **more)
        except Interrupted:
            stops += 1
        assert stops < 20
    assert stops >= 1
    assert results(tmp_path) == undisturbed


def test_a_run_stopped_while_writing_computes_nothing_again(scene, model, tmp_path, undisturbed):
    more = {"probabilities": tmp_path / "p.tif"}
    with pytest.raises(Interrupted, match="--resume"):
        run(scene, tmp_path / "m.tif", model, StopAfter("write", 1), **more)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tif.partial", "scene.tif"]
    result = run(scene, tmp_path / "m.tif", model, resume=True, **more)
    assert result.windows_computed == 0
    assert results(tmp_path) == undisturbed


def test_handlers_are_put_back(scene, model, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(scene, tmp_path / "m.tif", model)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# One process imports everything and then forks a run for every kill.
KILLER = """
import json, os, random, signal, sys, threading, time
import torch
torch.set_num_threads(1)
from rsmamba_cli.inference import PredictOptions, api, predict
from rsmamba_models import create_model

with torch.device("meta"):
    create_model("rsm_ss_nano")  # imports what loading a model needs

job = json.loads(sys.argv[1])
rng = random.Random(job["seed"])
kills = runs = 0

def start(delay):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    def die():
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)
    if delay is not None:
        threading.Thread(target=die, daemon=True).start()
    predict(job["scene"], job["output"], PredictOptions(**job["options"], resume=True))
    os._exit(0)

while kills < job["kills"]:
    runs += 1
    for path in (job["output"], job["options"]["probabilities"]):
        if os.path.exists(path):
            os.unlink(path)
    for _ in range(12):
        code = start(rng.uniform(0.0, job["longest"]))
        assert code in (0, -signal.SIGKILL), code
        kills += code != 0
        if code == 0:
            break
    else:
        assert start(None) == 0
    with open(job["output"], "rb") as mask, open(job["options"]["probabilities"], "rb") as more:
        assert [mask.read().hex(), more.read().hex()] == job["expected"], "other bytes"
    assert not os.path.exists(job["output"] + ".partial")
print(json.dumps({"kills": kills, "runs": runs}))
"""


def kill_at_random(scene, model, tmp_path, expected, kills, seed=1):
    """Kill runs at random moments and resume them until they are done, over and over."""
    job = {
        "scene": str(scene),
        "output": str(tmp_path / "m.tif"),
        "options": {**OPTIONS, "model": str(model), "probabilities": str(tmp_path / "p.tif")},
        "expected": [data.hex() for data in expected],
        "kills": kills,
        "seed": seed,
        "longest": 0.6,
    }
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'models'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, json.dumps(job)],
        env=environment, cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kills_at_random_moments_cost_nothing_but_time(scene, model, tmp_path, undisturbed, trials):
    done = kill_at_random(scene, model, tmp_path, undisturbed, kills=10)
    trials["kills of the run itself"] += done["kills"]


@pytest.mark.slow
def test_two_hundred_kills(scene, model, tmp_path, undisturbed, trials):
    done = kill_at_random(scene, model, tmp_path, undisturbed, kills=200, seed=2)
    trials["kills of the run itself"] += done["kills"]


# resuming is strict


@pytest.fixture
def stopped(scene, model, tmp_path):
    with pytest.raises(Interrupted):
        run(scene, tmp_path / "m.tif", model, StopAfter("predict", 13))
    return tmp_path / "m.tif.partial"


def test_a_damaged_block_is_computed_again(scene, model, tmp_path, stopped, trials):
    blocks = sorted((stopped / "blocks").iterdir())
    assert len(blocks) >= 3
    blocks[1].write_bytes(blocks[1].read_bytes()[:-1])
    run(scene, tmp_path / "m.tif", model, resume=True)
    run(scene, tmp_path / "calm.tif", model)
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()
    trials["chunks cut off"] += 1


def flip(block, rng):
    data = bytearray(block.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    block.write_bytes(data)


def cut(block, rng):
    data = block.read_bytes()
    block.write_bytes(data[: rng.randrange(len(data))])


def mistake(block, rng):
    block.write_bytes(rng.choice(sorted(block.parent.iterdir())).read_bytes())


def tear_journal(block, rng):
    journal = block.parents[1] / "journal.jsonl"
    cut(journal, rng)


DAMAGE = {
    "chunks with a changed bit": flip,
    "chunks cut off": cut,
    "chunks with the bytes of another": mistake,
    "chunks removed": lambda block, rng: block.unlink(),
    "journals cut off": tear_journal,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_random_damage_is_found_and_mended(scene, model, tmp_path, undisturbed, trials, kind):
    rng = random.Random(kind)
    more = {"probabilities": tmp_path / "p.tif", "resume": True}
    for _ in range(20):
        for path in (tmp_path / "m.tif", tmp_path / "p.tif"):
            path.unlink(missing_ok=True)
        with pytest.raises(Interrupted):
            run(scene, tmp_path / "m.tif", model, StopAfter("predict", rng.randint(7, 17)), **more)
        blocks = sorted((tmp_path / "m.tif.partial" / "blocks").glob("*.bin"))
        DAMAGE[kind](rng.choice(blocks), rng)
        run(scene, tmp_path / "m.tif", model, **more)
        assert results(tmp_path) == undisturbed
        trials[kind] += 1


@pytest.mark.slow
def test_inputs_that_change_are_refused_again_and_again(scene, model, tmp_path, stopped, trials):
    rng = random.Random(0)
    for _ in range(20):
        with rasterio.open(scene, "r+") as dataset:
            window = Window(rng.randrange(70), rng.randrange(130), 1, 1)
            dataset.write(255 - dataset.read(window=window), window=window)
        with pytest.raises(ResumeError, match="inputs 1 files 1"):
            run(scene, tmp_path / "m.tif", model, resume=True)
        trials["changed inputs refused"] += 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overlap": 0.5}, "stride"),
        ({"blend": "average"}, "options blend was"),
        ({"tta": "flip"}, "options tta was"),
        ({"batch_size": 3}, "options batch_size was 2 and is now 3"),
        ({"threshold": 0.3}, "options threshold was"),
        ({"nodata": 7.0}, "nodata"),
        ({"bands": (3, 2, 1)}, "bands"),
        ({"uncertainty": "u.tif"}, "uncertainty"),
    ],
)
def test_changed_options_are_refused_by_name(scene, model, tmp_path, stopped, change, words):
    if "uncertainty" in change:
        change = {"uncertainty": tmp_path / "u.tif"}
    with pytest.raises(ResumeError, match=words):
        run(scene, tmp_path / "m.tif", model, resume=True, **change)
    assert (stopped / "journal.jsonl").exists()


def test_a_changed_scene_is_refused(scene, model, tmp_path, stopped, scene_factory, trials):
    scene_factory(height=130, width=70, seed=9)
    with pytest.raises(ResumeError, match="inputs 1 files 1"):
        run(scene, tmp_path / "m.tif", model, resume=True)
    trials["changed inputs refused"] += 1


@pytest.mark.parametrize("windows", [1, 8, 15])
def test_a_scene_that_changes_under_the_run_is_refused(
    scene, model, tmp_path, scene_factory, trials, windows
):
    def change(event):
        nonlocal windows
        if isinstance(event, Progress) and event.stage == "predict":
            windows -= event.advance
            if windows <= 0:
                windows = 10**9
                with rasterio.open(scene, "r+") as dataset:
                    dataset.write(255 - dataset.read())

    with pytest.raises(ResumeError, match="was changed while it was being mapped"):
        run(scene, tmp_path / "m.tif", model, change)
    assert not (tmp_path / "m.tif").exists()
    trials["changed inputs refused"] += 1


def test_another_checkpoint_is_refused(scene, tmp_path, stopped, checkpoint_factory):
    other = checkpoint_factory(tile=32, classes=3)
    with pytest.raises(ResumeError, match="checkpoint sha256"):
        run(scene, tmp_path / "m.tif", other, resume=True)


def test_without_resume_interrupted_work_is_kept(scene, model, tmp_path, stopped):
    with pytest.raises(OutputError, match="--resume"):
        run(scene, tmp_path / "m.tif", model)
    assert (stopped / "journal.jsonl").exists()


def test_overwriting_starts_anew(scene, model, tmp_path, stopped):
    result = run(scene, tmp_path / "m.tif", model, overwrite=True, blend="average")
    assert result.windows_computed == result.windows
    assert not stopped.exists()


def test_an_interrupted_replacement_leaves_the_old_map(scene, model, tmp_path):
    (tmp_path / "m.tif").write_text("old")
    with pytest.raises(Interrupted):
        run(scene, tmp_path / "m.tif", model, StopAfter("predict", 9), overwrite=True)
    assert (tmp_path / "m.tif").read_text() == "old"
    run(scene, tmp_path / "m.tif", model, resume=True)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert set(np.unique(dataset.read())) <= {0, 1}


def test_resuming_what_is_finished_is_a_success_at_once(scene, model, tmp_path):
    run(scene, tmp_path / "m.tif", model)
    before = (tmp_path / "m.tif").stat().st_mtime_ns
    events = []
    result = run(scene, tmp_path / "m.tif", model, events.append, resume=True)
    assert result.skipped
    assert not [e for e in events if isinstance(e, Started)]
    assert (tmp_path / "m.tif").stat().st_mtime_ns == before


def test_resuming_what_others_finished_is_refused(scene, model, tmp_path):
    run(scene, tmp_path / "m.tif", model)
    with pytest.raises(ResumeError, match="options differ"):
        run(scene, tmp_path / "m.tif", model, resume=True, blend="average")


def test_resuming_does_not_take_another_scene_s_map_for_its_own(
    scene, model, tmp_path, scene_factory
):
    run(scene, tmp_path / "m.tif", model)
    other = scene_factory("other.tif", height=130, width=70, gsd=0.4)
    with pytest.raises(ResumeError, match="grid differ"):
        run(other, tmp_path / "m.tif", model, resume=True)
