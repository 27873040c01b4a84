"""The bench of several workers: what its report says, and one small run of it."""

import pytest
from typer.testing import CliRunner

from rsmamba_cli.app import app
from rsmamba_cli.bench import scaling
from rsmamba_cli.bench.runner import describe_machine


def mapped(how=scaling.IN_PROCESS, workers=1, seconds=60.0, sha256="a"):
    return scaling.Mapped(
        how=how, workers=workers, seconds=seconds, first_seconds=2.0, windows=9, sha256=sha256
    )


def report(*ways, task_seconds=0.002):
    return scaling.ScalingReport(
        command="rsmamba bench scaling",
        side=1000,
        model="demo_segmentation",
        machine=describe_machine(),
        mapped=ways,
        tasks=10,
        task_seconds=task_seconds,
    )


def test_efficiency_is_speed_up_over_workers():
    rows = scaling.scaling_rows(report(mapped(), mapped(scaling.CLUSTER, 2, 40.0)))
    assert rows[0][3:5] == ("1.00", "100%")
    assert rows[1] == ("2 Dask workers", "40.0", "2.0", "1.50", "75%", "0.03", "yes")


def test_other_bytes_are_not_hidden():
    found = report(mapped(), mapped(scaling.PROCESSES, 2, sha256="b"))
    assert not found.same
    assert scaling.scaling_rows(found)[1][-1] == "NO"


def test_the_report_goes_to_json_and_back_and_to_markdown():
    found = report(mapped())
    assert scaling.ScalingReport.model_validate_json(found.model_dump_json()) == found
    text = scaling.scaling_markdown(found)
    assert "500 tasks a second" in text
    assert "| this process |" in text
    assert "not installed" in scaling.scaling_markdown(report(mapped(), task_seconds=None))


@pytest.mark.slow
def test_every_engine_maps_the_scene_and_the_page_says_so(tmp_path):
    pytest.importorskip("distributed")
    page = tmp_path / "page.md"
    words = ["bench", "scaling", "--side", "600", "--folder", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, [*words, "--markdown", str(page)])
    assert result.exit_code == 0, result.output
    found = scaling.ScalingReport.model_validate_json(result.stdout)
    assert [m.how for m in found.mapped] == [
        scaling.IN_PROCESS,
        scaling.PROCESSES,
        scaling.CLUSTER,
    ]
    assert found.same
    assert 0 < found.task_seconds < 1
    assert "| 2 Dask workers |" in page.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
