"""A whole run on tiny cases: complete records, memory from a process of its own."""

from dataclasses import replace

import pytest
import torch
from bench_cases import LIMITS, SCAN, TINY

from rsmamba_cli.bench import BenchOptions, Report, Scale, Spec, memory_child, run_bench, runner
from rsmamba_cli.bench.memory import measure_peak
from rsmamba_cli.events import Finished, Progress, Started, Warned
from rsmamba_cli.resident import available_bytes, peak_bytes, reset_peak

QUICK = BenchOptions(scale=Scale.quick, rounds=1, memory=False, command="rsmamba bench ops")


def bench(*specs: Spec, options: BenchOptions = QUICK, **more) -> Report:
    return run_bench(specs, options, limits=lambda: LIMITS, **more)


@pytest.fixture(scope="module")
def report() -> Report:
    return bench(*TINY)


def test_every_form_of_every_case_has_a_complete_record(report) -> None:
    for spec in TINY:
        records = [record for record in report.records if record.case == spec.case]
        assert len(records) >= 2
        for record in records:
            assert record.sizes == dict(spec.sizes)
            assert record.repeats >= 1
            assert 0 < record.min_seconds <= record.median_seconds
            assert record.note == ""


def test_every_form_but_the_first_says_how_far_it_is_from_it(report) -> None:
    for spec in TINY:
        compared = [r for r in report.records if r.case == spec.case and "forward" not in r.form]
        assert compared[0].difference is None
        assert all(record.difference < 1e-4 for record in compared[1:])


def test_every_back_end_is_held_against_the_step_loop_and_the_reference(report) -> None:
    found = {r.form: r for r in report.records if r.case == "scan forward"}
    assert {"step loop", "reference"} <= set(found["torch"].ratios)
    loop, own = found["step loop"].median_seconds, found["torch"].median_seconds
    assert found["torch"].ratios["step loop"] == pytest.approx(loop / own)


def test_a_backward_pass_is_held_against_its_own_forward(report) -> None:
    (record,) = [r for r in report.records if (r.case, r.form) == ("scan backward", "torch")]
    assert "torch forward" in record.ratios
    assert record.share is None


def test_shares_follow_from_the_limits(report) -> None:
    (record,) = [r for r in report.records if (r.case, r.form) == ("scan forward", "torch")]
    assert record.share == pytest.approx(record.limits[record.limit] / record.median_seconds)


def test_two_threads_are_held_against_one(monkeypatch) -> None:
    form = runner.build("scan_forward", SCAN).forms["torch"]
    only = replace(runner.build("scan_forward", SCAN), forms={"fast": replace(form, spreads=True)})
    monkeypatch.setattr(runner, "build", lambda kind, sizes: only)
    monkeypatch.setattr(runner, "_cores", lambda: 2)
    one, two = bench(TINY[0]).records
    assert (one.form, one.threads, two.form, two.threads) == ("fast", 1, "fast, 2 threads", 2)
    assert set(two.ratios) == {"fast"}
    assert (one.limit is None, two.limit) == (False, None)


def test_on_one_core_there_are_no_two_threads(monkeypatch) -> None:
    monkeypatch.setattr(runner, "_cores", lambda: 1)
    assert all(record.threads == 1 for record in bench(TINY[0]).records)


def test_only_the_forms_asked_for_are_timed() -> None:
    (record,) = bench(replace(TINY[0], forms=("torch",))).records
    assert record.form == "torch"


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    bench(TINY[3], options=replace(QUICK, threads=2))
    assert torch.get_num_threads() == before


def test_a_form_without_memory_is_a_record_with_the_reason(monkeypatch) -> None:
    monkeypatch.setattr("rsmamba_cli.bench.workloads.available_bytes", lambda: 10)
    found = {record.form: record for record in bench(TINY[0]).records}
    assert "GiB are free" in found["step loop"].note
    assert found["step loop"].median_seconds is None
    assert "step loop" not in found["torch"].ratios


def test_a_wrong_result_shows_as_a_difference(monkeypatch) -> None:
    workload = runner.build("scan_forward", SCAN)
    wrong = replace(workload.forms["torch"], call=lambda: torch.full((1, 16, 4), torch.nan))
    workload.forms.update({"torch": wrong})
    monkeypatch.setattr(runner, "build", lambda kind, sizes: workload)
    (record,) = [r for r in bench(TINY[0]).records if r.form == "torch"]
    assert record.difference > 1e30


def test_a_busy_machine_is_told_before_anything_runs(monkeypatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 0.0, 0.0))
    events = []
    bench(on_event=events.append)
    assert isinstance(events[0], Warned)
    assert "busy (3.0 tasks" in events[0].message


def test_progress_counts_cases(monkeypatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    events = []
    bench(*TINY[:2], on_event=events.append)
    assert isinstance(events[0], Started)
    assert events[0].total == 2 == sum(e.advance for e in events if isinstance(e, Progress))
    assert isinstance(events[-1], Finished)


def test_the_better_of_two_measurements_of_the_machine_counts() -> None:
    slow = LIMITS.model_copy(update={"fma_per_second": 1.0})
    rates = iter([slow, LIMITS])
    assert run_bench((), QUICK, limits=lambda: next(rates)).limits == LIMITS


def test_memory_is_measured_where_asked_for_and_there_only(monkeypatch) -> None:
    peaks = []
    monkeypatch.setattr(
        runner,
        "measure_peak",
        lambda kind, sizes, form, threads: peaks.append(form) or runner_peak(7),
    )
    spec = replace(TINY[3], memory=("chunkwise", "absent here"))
    alone = replace(TINY[0], memory=("torch",), timed=False)
    found = bench(spec, alone, options=replace(QUICK, memory=True)).records
    assert peaks == ["chunkwise", "torch"]
    assert [r.peak_bytes for r in found if r.form == "chunkwise"] == [7]
    assert (found[-1].form, found[-1].median_seconds, found[-1].peak_bytes) == ("torch", None, 7)


def test_without_memory_cases_of_memory_alone_are_left_out() -> None:
    assert bench(replace(TINY[0], memory=("torch",), timed=False)).records == ()


def runner_peak(number: int):
    from rsmamba_cli.bench.memory import Peak

    return Peak(number)


def test_peak_memory_of_a_process_is_that_of_the_form() -> None:
    # 4 heads x 1000 x 1000 weights in float32 are 15 MiB, of which several exist at a time.
    sizes = {"heads": 4, "head": 4, "tokens": 1000}
    peak = measure_peak("mlstm", sizes, "parallel", 1)
    assert peak.note == ""
    assert 15 << 20 < peak.bytes < 400 << 20


def test_a_process_that_fails_leaves_a_note() -> None:
    peak = measure_peak("mlstm", {"heads": 1, "head": 4, "tokens": 5}, "no such form", 1)
    assert peak.bytes is None
    assert "no such form" in peak.note


def test_a_form_that_does_not_fit_leaves_the_reason(monkeypatch) -> None:
    monkeypatch.setattr("rsmamba_cli.bench.workloads.available_bytes", lambda: 10)
    request = {"kind": "scan_forward", "sizes": SCAN, "form": "step loop", "threads": 1}
    found = memory_child.run(request)
    assert found["bytes"] is None
    assert "GiB are free" in found["note"]


def test_resident_memory_follows_an_allocation() -> None:
    before = reset_peak()
    block = torch.ones(1 << 24)
    assert peak_bytes() - before > 0.9 * block.numel() * 4
    assert available_bytes() is None or available_bytes() > 0


def test_what_is_done_is_saved_after_every_case() -> None:
    saved = []
    report = bench(*TINY[:2], save=saved.append)
    assert [len({r.case for r in s.records}) for s in saved] == [1, 2]
    assert saved[-1] == report
