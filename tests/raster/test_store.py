"""A block is finished or it does not exist; a run goes on only with the plan it began with."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from rsmamba_cli.errors import OutputError, ResumeError
from rsmamba_cli.raster import blocks as store_module
from rsmamba_cli.raster.lock import RunLock
from rsmamba_cli.raster.store import Layer, Layout, Store, partial_folder, plan_changes

LAYOUT = Layout(
    (0, 3, 5, 9), (0, 4, 10), {"mask": Layer(1, "uint8", 255), "wide": Layer(2, "uint16", 0)}
)
PLAN = {"options": {"tile": 64, "blend": "hann"}, "inputs": [{"bytes": 10}], "_paths": ["a.tif"]}


def arrays(key, seed=0):
    rng = np.random.default_rng([seed, *key])
    height, width = LAYOUT.shape(key)
    return {
        "mask": rng.integers(0, 9, (1, height, width)).astype(np.uint8),
        "wide": rng.integers(0, 60_000, (2, height, width)).astype(np.uint16),
    }


def begin(tmp_path, plan=PLAN, resume=False, restart=False):
    return Store(tmp_path / "out.tif", plan, LAYOUT, resume, restart)


def fill(store, keys=None):
    for key in LAYOUT.block_keys() if keys is None else keys:
        store.put(key, arrays(key))


@pytest.fixture
def half_done(tmp_path):
    with begin(tmp_path) as store:
        fill(store, LAYOUT.block_keys()[:4])
    return partial_folder(tmp_path / "out.tif")


@pytest.mark.parametrize("kept", [1, 100, 1 << 20])
def test_rows_come_back_as_they_were_put(tmp_path, kept):
    whole = np.zeros((2, 9, 10), dtype=np.uint16)
    with begin(tmp_path) as store:
        fill(store)
        for band, strip in LAYOUT.block_keys():
            rows = slice(LAYOUT.rows[band], LAYOUT.rows[band + 1])
            cols = slice(LAYOUT.cols[strip], LAYOUT.cols[strip + 1])
            whole[:, rows, cols] = arrays((band, strip))["wide"]
        store.kept_bytes = kept
        np.testing.assert_array_equal(store.read_rows("wide", 0, 9), whole)
        np.testing.assert_array_equal(store.read_rows("wide", 2, 7), whole[:, 2:7])


def test_a_resumed_run_finds_what_was_finished(tmp_path, half_done):
    with begin(tmp_path, resume=True) as store:
        assert store.done == frozenset(LAYOUT.block_keys()[:4])


def test_paths_may_change_between_runs(tmp_path, half_done):
    with begin(tmp_path, {**PLAN, "_paths": ["elsewhere/a.tif"]}, resume=True) as store:
        assert store.done


def test_an_interrupted_run_is_not_thrown_away_silently(tmp_path, half_done):
    with pytest.raises(OutputError, match=r"4 of 6 blocks done.*--resume.*--overwrite"):
        begin(tmp_path)
    assert (half_done / "journal.jsonl").exists()


def test_restarting_throws_it_away(tmp_path, half_done):
    with begin(tmp_path, restart=True) as store:
        assert not store.done


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"tile": 128, "blend": "hann"}}, "options tile was 64 and is now 128"),
        ({"inputs": [{"bytes": 11}]}, "inputs 1 bytes was 10 and is now 11"),
        ({"inputs": []}, "inputs was"),
        ({"more": 1}, "more was null and is now 1"),
    ],
)
def test_another_plan_is_refused_by_what_changed(tmp_path, half_done, change, words):
    with pytest.raises(ResumeError, match=words):
        begin(tmp_path, {**PLAN, **change}, resume=True)
    assert len(list((half_done / "blocks").iterdir())) == 4


def test_a_damaged_block_counts_for_nothing(tmp_path, half_done):
    block = sorted((half_done / "blocks").iterdir())[1]
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 1
    block.write_bytes(data)
    with begin(tmp_path, resume=True) as store:
        assert store.done == frozenset(LAYOUT.block_keys()[:4]) - {LAYOUT.block_keys()[1]}


def test_a_missing_block_counts_for_nothing(tmp_path, half_done):
    sorted((half_done / "blocks").iterdir())[2].unlink()
    with begin(tmp_path, resume=True) as store:
        assert len(store.done) == 3


@pytest.mark.parametrize(
    "torn", [b'{"block":[2,0],"sha', b"\0" * 40, b'{"block":[2,0]}\n', b"[]\n"]
)
def test_a_torn_journal_line_counts_for_nothing(tmp_path, half_done, torn):
    with (half_done / "journal.jsonl").open("ab") as journal:
        journal.write(torn)
    with begin(tmp_path, resume=True) as store:
        assert len(store.done) == 4
        store.put((2, 0), arrays((2, 0)))
    with begin(tmp_path, resume=True) as store:
        assert (2, 0) in store.done


def test_a_block_without_a_journal_line_counts_for_nothing(tmp_path, half_done):
    journal = half_done / "journal.jsonl"
    lines = [line for line in journal.read_bytes().split(b"\n") if line]
    journal.write_bytes(b"\n".join(lines[:-1]) + b"\n")
    with begin(tmp_path, resume=True) as store:
        assert len(store.done) == 3


def test_a_damaged_plan_means_a_fresh_start(tmp_path, half_done):
    plan = half_done / "plan.json"
    plan.write_text(plan.read_text().replace('"tile":64', '"tile":65'))
    with begin(tmp_path, resume=True) as store:
        assert not store.done


def test_a_block_that_changes_under_the_run_is_noticed(tmp_path):
    with begin(tmp_path) as store:
        fill(store)
        sorted((store.folder / "blocks").iterdir())[0].write_bytes(b"x")
        with pytest.raises(OutputError, match="--resume"):
            store.read_rows("mask", 0, 1)


def test_nothing_is_kept_where_nothing_was_finished(tmp_path):
    with begin(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_discarded_run_leaves_nothing(tmp_path):
    with begin(tmp_path) as store:
        fill(store)
        store.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_keeps_what_was_finished(tmp_path):
    with pytest.raises(ZeroDivisionError), begin(tmp_path) as store:
        fill(store, [(0, 0)])
        raise ZeroDivisionError
    with begin(tmp_path, resume=True) as store:
        assert store.done == {(0, 0)}


def test_two_runs_on_one_output_refuse_each_other(tmp_path):
    with begin(tmp_path) as store:
        fill(store, [(0, 0)])
        for options in ({"resume": True}, {"restart": True}):
            with pytest.raises(OutputError, match=f"another run .* {os.getpid()} "):
                begin(tmp_path, **options)
        assert len(store.done) == 1


def test_files_of_others_are_not_touched(tmp_path):
    folder = partial_folder(tmp_path / "out.tif")
    folder.mkdir()
    (folder / "thesis.docx").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.docx"):
        begin(tmp_path, restart=True)
    assert (folder / "thesis.docx").read_text() == "mine"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="nowhere does not exist"):
        begin(tmp_path / "nowhere")


def test_a_full_disk_is_said_so_and_keeps_what_was_finished(tmp_path, monkeypatch):
    real = store_module.write_synced

    def full(path, data, *more):
        if path.name.startswith("000001"):
            raise OSError(28, "No space left on device")
        real(path, data, *more)

    with begin(tmp_path) as store:
        monkeypatch.setattr(store_module, "write_synced", full)
        with pytest.raises(OutputError, match=r"No space left.*--resume"):
            fill(store)
    monkeypatch.undo()
    with begin(tmp_path, resume=True) as store:
        assert store.done == {(0, 0), (0, 1)}


def test_arrays_of_another_shape_are_a_mistake(tmp_path):
    with begin(tmp_path) as store, pytest.raises(ValueError, match="block"):
        store.put((0, 0), arrays((1, 1)))


def test_changes_are_found_at_any_depth():
    before = {"a": {"b": [1, {"c": 2}]}, "_x": 1}
    assert plan_changes(before, {"a": {"b": [1, {"c": 3}]}, "_x": 2}) == [
        "a b 2 c was 2 and is now 3"
    ]


# the lock


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import sys, os, signal; from pathlib import Path;"
        "from rsmamba_cli.raster.lock import RunLock;"
        "RunLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "lock"
    subprocess.run(
        [sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": "."}, check=False
    )
    assert json.loads(path.read_text())["pid"] != os.getpid()
    lock = RunLock(path)
    lock.acquire()
    record = json.loads(path.read_text())
    assert (record["host"], record["pid"]) == (socket.gethostname(), os.getpid())
    lock.release()
    assert not path.exists()


def test_a_lock_of_another_host_is_believed(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(OutputError, match="process 1 on elsewhere"):
        RunLock(path).acquire()
    assert path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\0\0"])
def test_a_torn_lock_file_locks_nobody_out(tmp_path, content):
    path = tmp_path / "lock"
    path.write_text(content)
    lock = RunLock(path)
    lock.acquire()
    lock.release()
