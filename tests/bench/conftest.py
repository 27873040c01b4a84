"""A report to write down."""

import pytest
from bench_cases import LIMITS, MACHINE, record

from rsmamba_cli.bench import Report


@pytest.fixture
def report() -> Report:
    """A report with every kind of entry."""
    return Report(
        command="rsmamba bench ops",
        scale="normal",
        threads=1,
        machine=MACHINE,
        limits=LIMITS,
        records=(
            record("reference", median_seconds=0.5, min_seconds=0.4, repeats=3),
            record(
                median_seconds=2.5e-3,
                min_seconds=2e-3,
                repeats=7,
                ratios={"reference": 200.0},
                limits={"fma": 1e-3, "memory": 5e-4},
                limit="fma",
                share=0.4,
                peak_bytes=3 << 20,
                difference=2e-7,
            ),
            record("step loop", note="needs 9 GiB | 2 GiB are free"),
            record(group="rsm_ss_nano", case="one pass", sizes={"model": "rsm_ss_nano", "side": 8}),
        ),
    )
