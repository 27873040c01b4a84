"""The targets: found at their sizes only, judged in the right direction."""

import pytest
from bench_cases import LIMITS, MACHINE, record

from rsmamba_cli.bench import Report, Scale, model_suite, ops_suite
from rsmamba_cli.bench.suites import MLSTM_SIZES, SCANS
from rsmamba_cli.bench.tables import target_rows, to_html, to_markdown
from rsmamba_cli.bench.targets import _targets, verdicts

S1 = {"batch": 1, **SCANS["s1"]}


def report(*records) -> Report:
    return Report(
        command="bench",
        scale="full",
        threads=1,
        machine=MACHINE,
        limits=LIMITS,
        records=records,
    )


def forward(**more):
    return record(case="scan forward s1", sizes=S1, **more)


@pytest.mark.parametrize(("ratio", "met"), [(199.0, False), (200.0, True)])
def test_a_speed_up_is_at_least_its_aim(ratio, met) -> None:
    (speed, _) = verdicts(report(forward(ratios={"step loop": ratio})))
    assert (speed.reached, speed.met) == (ratio, met)


@pytest.mark.parametrize(("share", "met"), [(0.5, False), (0.8, True)])
def test_the_bound_is_exceeded_at_most_so_much(share, met) -> None:
    (_, bound) = verdicts(report(forward(share=share)))
    assert (bound.target.peer, bound.met) == ("instruction bound", met)


def test_a_backward_pass_takes_at_most_four_times_its_forward() -> None:
    backward = record(case="scan backward s1", sizes=S1, ratios={"native forward": 0.2})
    (verdict,) = verdicts(report(backward))
    assert (verdict.reached, verdict.met) == (5.0, False)


def test_memory_over_memory_at_a_quarter_of_the_tokens_is_linear_or_not() -> None:
    sizes = dict(MLSTM_SIZES)
    short = record("chunkwise", case="mLSTM", sizes=sizes, peak_bytes=100)
    for peak, met in ((410, True), (1600, False)):
        long = {**sizes, "tokens": 4 * sizes["tokens"]}
        found = verdicts(
            report(short, record("chunkwise", case="mLSTM", sizes=long, peak_bytes=peak))
        )
        assert [(v.reached, v.met) for v in found] == [(None, None), (peak / 100, met)]


def test_other_sizes_are_not_judged() -> None:
    small = record(case="scan forward s1", sizes={**S1, "side": 24}, ratios={"step loop": 1.0})
    assert target_rows(report(small)) == []
    assert "targets" not in to_markdown(report(small))


def test_what_was_not_measured_is_said() -> None:
    assert [row[-1] for row in target_rows(report(forward()))] == ["not measured"] * 2


def test_all_tables_show_the_verdict() -> None:
    run = report(forward(ratios={"step loop": 150.0}))
    line = "| scan forward s1: native | step loop | 150 x | at least 200 x | not met |"
    assert line in to_markdown(run)
    assert "<td>not met</td>" in to_html(run)


def test_every_target_has_its_case_in_the_full_suite() -> None:
    specs = (*ops_suite(Scale.full), *model_suite("rsm_ss_tiny", Scale.full))
    for target in _targets():
        assert any(
            (s.group, s.case) == (target.group, target.case)
            and target.sizes.items() <= s.sizes.items()
            for s in specs
        ), target
