"""Ratios, limits and shares from known timings."""

import pytest
from bench_cases import LIMITS, record
from pydantic import ValidationError

from rsmamba_cli.bench import Limits, Report
from rsmamba_cli.bench.records import Floor, binding, ratios
from rsmamba_cli.bench.runner import bounded

SAMPLES = {"loop": [9.0, 6.0, 3.0], "torch": [1.0, 2.0], "native": [0.5, 0.4, 9.0], "none": []}


def test_a_ratio_is_the_peers_median_over_the_own() -> None:
    assert ratios("native", ["loop", "torch"], SAMPLES) == {"loop": 12.0, "torch": 3.0}


def test_peers_that_were_not_timed_and_the_form_itself_are_left_out() -> None:
    assert ratios("torch", ["torch", "none", "absent", "loop"], SAMPLES) == {"loop": 4.0}


def test_limits_are_work_over_rates() -> None:
    floor = Floor(exps=4e9, fmas=2e9, instructions=8e9, bytes=3e9)
    assert LIMITS.seconds(floor) == {"fma": 0.5, "issue": 2.0, "memory": 3.0, "exp": 2.0}


def test_work_that_there_is_none_of_has_no_limit() -> None:
    assert LIMITS.seconds(Floor(fmas=4e9)) == {"fma": 1.0}


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"fma": 2.0, "memory": 1.0}, "fma"),
        ({"fma": 1.0, "memory": 2.0, "exp": 9.0, "issue": 9.0}, "memory"),
        ({"exp": 9.0}, None),
    ],
)
def test_only_true_lower_bounds_bind(limits, name) -> None:
    assert binding(limits) == name


def test_the_share_is_the_binding_limit_over_the_median() -> None:
    timed = record(median_seconds=2.0, min_seconds=1.0, repeats=1)
    found = bounded(timed, Floor(fmas=2e9, bytes=1e9, exps=1e9), LIMITS)
    assert (found.limit, found.share, found.limits["exp"]) == ("memory", 0.5, 0.5)


def test_what_was_not_timed_has_no_share() -> None:
    assert bounded(record(peak_bytes=1), Floor(fmas=1e9), LIMITS) == record(peak_bytes=1)


def test_of_two_measurements_the_higher_rates_count() -> None:
    other = Limits(
        exp_per_second=3e9, exp_source="numpy.exp", fma_per_second=1e9, bytes_per_second=5e9
    )
    best = LIMITS.best(other)
    assert best == other.best(LIMITS)
    assert (best.exp_source, best.exp_per_second) == ("numpy.exp", 3e9)
    assert (best.fma_per_second, best.bytes_per_second) == (4e9, 5e9)


def test_a_report_goes_to_json_and_back(report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_report_of_a_newer_format_is_refused(report) -> None:
    with pytest.raises(ValidationError, match="format"):
        Report.model_validate({**report.model_dump(), "format": 2})
