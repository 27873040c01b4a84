"""Forms of a case agree, floors count right, the machine's limits are numbers."""

import os

import pytest
import torch
from bench_cases import SCAN, SMALLEST_MODEL, TINY

from rsmamba_cli.bench import Scale, model_suite, ops_suite, workloads
from rsmamba_cli.bench.limits import measure_limits, quickest
from rsmamba_models import create_model
from rsmamba_models.ops.backends import ENVIRONMENT, Op


@pytest.fixture
def small_models(monkeypatch) -> None:
    """``create_model`` makes the smallest model of a name's kind."""
    monkeypatch.setattr(
        workloads, "create_model", lambda name: create_model(name, **SMALLEST_MODEL)
    )


@pytest.mark.parametrize("spec", TINY, ids=lambda spec: spec.kind)
def test_forms_of_an_op_agree(spec) -> None:
    forms = [
        form for form in workloads.build(spec.kind, spec.sizes).forms.values() if form.compared
    ]
    first, *others = [form.call() for form in forms]
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rsm_ss_nano", "rsm_cd_nano"])
def test_forms_of_a_model_agree(small_models, name) -> None:
    forms = workloads.build("model", {"model": name, "side": 32}).forms
    assert {"torch", "step loop"} <= set(forms)
    first, *others = [form.call() for form in forms.values()]
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-5)


def test_a_model_is_left_with_its_own_scan(small_models, monkeypatch) -> None:
    from rsmamba_models.layers import scan

    monkeypatch.setenv(ENVIRONMENT, "reference")
    before = scan.projected_scan
    for form in workloads.build("model", {"model": "rsm_ss_nano", "side": 32}).forms.values():
        form.call()
    assert scan.projected_scan is before
    assert os.environ[ENVIRONMENT] == "reference"


def test_interpreted_gpu_kernels_are_not_measured(monkeypatch) -> None:
    monkeypatch.setattr(Op, "usable", lambda op, tensor: ("torch", "triton"))
    assert workloads.scan_back_ends() == ("torch",)


def test_the_floor_of_a_scan_counts_states_steps_and_bytes() -> None:
    floor = workloads.build("scan_forward", SCAN).floor
    length, directions, channels, states = 16, 4, 4, 2
    steps = directions * length * channels
    assert floor.exps == steps * states + steps
    assert floor.fmas == 8 * steps * states + 15 * steps
    assert floor.instructions == 13 * steps * states + 27 * steps
    numbers = 2 * length * channels + steps + 2 * directions * length * states
    small = directions * channels * (states + 2)
    assert floor.bytes == 4 * (numbers + small)


def test_scan_inputs_do_not_change_from_run_to_run() -> None:
    first, again = (workloads.build("scan_forward", SCAN).forms["torch"].call() for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("scale", Scale)
def test_every_case_of_the_suites_names_known_builders_and_forms(scale, small_models) -> None:
    for spec in (*ops_suite(scale), *model_suite("rsm_ss_nano", scale)):
        small = {k: min(v, 24) if isinstance(v, int) else v for k, v in spec.sizes.items()}
        known = {*workloads.build(spec.kind, small).forms, "native"}
        assert {*spec.forms, *spec.memory} <= known


def test_full_times_the_step_loop_at_the_models_real_size() -> None:
    (spec,) = [spec for spec in model_suite("rsm_ss_tiny", Scale.full) if spec.timed]
    assert (spec.sizes["side"], spec.forms) == (512, ())


def test_limits_are_measured_with_the_threads_in_use() -> None:
    limits = measure_limits(seconds=0.01, triad=1 << 12, matrix=32)
    assert min(limits.exp_per_second, limits.fma_per_second, limits.bytes_per_second) > 0
    assert limits.exp_source.split(".")[0] in ("torch", "numpy")


def test_the_quickest_run_counts_and_the_first_does_not() -> None:
    now = 0.0
    lengths = iter([0.5, 3.0, 1.0, 2.0])

    def call() -> None:
        nonlocal now
        now += next(lengths)

    assert quickest(call, 4.0, clock=lambda: now) == 1.0
