"""The bench of the pipeline: exact models, equal maps, honest targets."""

import numpy as np
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from rsmamba_cli.app import app
from rsmamba_cli.bench import pipeline
from rsmamba_cli.bench.pipeline import (
    PipelineOptions,
    flips,
    pipeline_markdown,
    run_pipeline_bench,
    suite,
)
from rsmamba_cli.bench.pipeline.child import run as child
from rsmamba_cli.bench.pipeline.forms import (
    FLOOR,
    FORMS,
    LOOP,
    MODEL,
    RSMAMBA,
    Work,
    differing,
    keep_exact_labels,
)
from rsmamba_cli.bench.pipeline.models import NAMES, RADIUS, Blur, build
from rsmamba_cli.bench.pipeline.records import Case, Run
from rsmamba_cli.bench.pipeline.scenes import (
    BRIGHTEST,
    LAYOUTS,
    NODATA,
    draw_scene,
    draw_sparse_scene,
)


def test_the_layouts_hold_the_same_pixels(tmp_path):
    values = []
    for layout in LAYOUTS:
        draw_scene(tmp_path / "s.tif", 600, 530, layout)
        with rasterio.open(tmp_path / "s.tif") as scene:
            assert (scene.block_shapes[0][1] < 530) == layout.startswith("tiled")
            values.append(scene.read())
    assert values[0].dtype == np.uint16
    assert values[0].max() <= BRIGHTEST
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


def test_a_sparse_scene_takes_no_room(tmp_path):
    path = tmp_path / "s.tif"
    draw_sparse_scene(path, 20_000, 20_000, 2, 512)
    assert path.stat().st_size < 8 << 20
    with rasterio.open(path) as scene:
        assert scene.nodata == NODATA
        corner = scene.read(1, window=((0, 512), (0, 512)))
        assert not corner.any()
        inside = scene.read(1, window=((4608, 5120), (4608, 5120)))
        assert inside.all()


@pytest.mark.parametrize("name", NAMES)
def test_the_models_are_exact_in_single_precision(name):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, BRIGHTEST + 1, (1, 4, 512, 512)).astype("f4"))
    image[..., :100] = BRIGHTEST
    with torch.inference_mode():
        single, double = build(name)(image), build(name).double()(image.double())
    np.testing.assert_array_equal(single.double().numpy(), double.numpy())


def test_the_blur_sums_over_33_pixels():
    image = torch.zeros(1, 4, 80, 90)
    image[0, 0, 40, 50] = 512
    with torch.inference_mode():
        seen = Blur()(image) - Blur()(torch.zeros_like(image))
    expected = np.zeros((80, 90))
    expected[40 - RADIUS : 41 + RADIUS, 50 - RADIUS : 51 + RADIUS] = 3 * 512 / 256 / 1024
    np.testing.assert_array_equal(seen[0, 0].numpy(), expected)


@pytest.mark.parametrize("form", [RSMAMBA, LOOP, "MONAI"])
@pytest.mark.parametrize(("model", "trim"), [(NAMES[0], 0), (NAMES[1], RADIUS + 1)])
def test_every_way_makes_the_map(tmp_path, form, model, trim):
    if form == "MONAI":
        pytest.importorskip("monai")
    scene, output = tmp_path / "s.tif", tmp_path / "m.tif"
    draw_scene(scene, 300, 330, "striped deflate")
    work = Work(scene, model, 128, 40, trim, "1GiB")
    times = FORMS[form](work, output)
    assert times.mask > 0
    keep_exact_labels(scene, model, tmp_path / "exact.npy")
    wrong = differing(output, tmp_path / "exact.npy") / (300 * 330)
    # Only trimming takes away what the borders of windows spoil.
    assert wrong == 0 if trim == 0 or form == RSMAMBA else wrong < 0.05


def test_a_wrong_map_is_seen(tmp_path):
    scene, output = tmp_path / "s.tif", tmp_path / "m.tif"
    draw_scene(scene, 300, 330, "tiled raw")
    FORMS[RSMAMBA](Work(scene, NAMES[1], 128, 40, 0, "1GiB"), output)
    keep_exact_labels(scene, NAMES[1], tmp_path / "exact.npy")
    assert differing(output, tmp_path / "exact.npy") > 0


@pytest.mark.parametrize("form", [FLOOR, MODEL])
def test_a_process_measures_time_and_memory(tmp_path, form):
    draw_scene(tmp_path / "s.tif", 300, 330, "tiled raw")
    work = {
        "scene": str(tmp_path / "s.tif"), "model": NAMES[0], "tile": 128, "overlap": 40,
        "trim": 0, "memory": "1GiB",
    }  # fmt: skip
    request = {"form": form, "work": work, "output": str(tmp_path / "m.tif"), "rounds": 2}
    before = torch.get_num_threads()
    try:
        found = child(request)
    finally:
        torch.set_num_threads(before)
    assert len(found["times"]) == 2
    assert found["peak_bytes"] >= 0


@pytest.fixture
def small(monkeypatch):
    """Cases of a few windows, computed in this process."""
    monkeypatch.setattr(suite, "TILE", 128)
    monkeypatch.setattr(suite, "OVERLAP", 40)
    shapes = [(150, 150), (300, 300), (600, 150)]
    found = [
        Case(model=model, layout=layout, height=h, width=w, trim=trim)
        for h, w in shapes
        for layout in LAYOUTS
        for model, trim in zip(NAMES, (0, RADIUS + 1), strict=True)
        if h == w or model == NAMES[0]
    ]
    monkeypatch.setattr(suite, "cases", lambda scale: tuple(found))
    monkeypatch.setattr(suite, "_in_process", fake_process)
    monkeypatch.setattr(suite, "FLIP_SIDES", {"normal": 96})
    monkeypatch.setattr(flips, "SETTINGS", ((1, 1), (2, 1)))


def fake_process(request):
    from dataclasses import asdict
    from pathlib import Path

    work = Work(**{**request["work"], "scene": Path(request["work"]["scene"])})
    times = asdict(FORMS[request["form"]](work, Path(request["output"])))
    return {"times": [times] * request["rounds"], "peak_bytes": 1000 + work.scene.stat().st_size}


def test_a_report_holds_every_map_and_the_targets(tmp_path, small):
    report = run_pipeline_bench(PipelineOptions(folder=tmp_path, rounds=1), call=fake_process)
    assert list(tmp_path.iterdir()) == []
    names = [target.name for target in report.targets]
    assert len(names) == 6
    assert [(flip.batch_size, flip.labels) for flip in report.flips] == [(1, 0), (2, 0)]
    labels = next(t for t in report.targets if t.name.startswith("labels"))
    assert labels.reached == "0"
    assert labels.met
    text = pipeline_markdown(report)
    assert "### Targets" in text
    assert text.count("| rsmamba |") + text.count(" rsmamba |") >= 15
    assert report.model_validate_json(report.model_dump_json()) == report


def test_the_command_writes_its_own_section(tmp_path, small):
    page = tmp_path / "page.md"
    page.write_text(
        "# Before\n<!-- bench:pipeline:begin (written by `rsmamba bench --markdown`; changes here "
        "are lost) -->\nold\n<!-- bench:pipeline:end -->\nafter\n"
    )
    words = ["bench", "pipeline", "--rounds", "1", "--markdown", str(page), "--json"]
    result = CliRunner().invoke(app, [*words, "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert pipeline.PipelineReport.model_validate_json(result.stdout).runs


def test_targets_that_are_missed_say_so():
    def run(layout, seconds, peak, side=100, height=None, differing=3, trim=17):
        case = Case(model=NAMES[0], layout=layout, height=height or side, width=side, trim=trim)
        return Run(
            case=case,
            form=RSMAMBA,
            mask_seconds=seconds,
            peak_bytes=peak,
            allowed_bytes=20_000,
            differing=differing,
        )

    runs = [
        run("tiled raw", 1, 0),
        run("tiled deflate", 1, 0),
        run("striped deflate", 2, 0),
        run("tiled raw", 1, 30_000, height=400),
    ]
    found = {t.name: t for t in suite.targets(runs)}
    assert len(found) == 5
    assert not any(target.met for target in found.values())
    assert found["memory a pixel of height, at one width"].reached == "+1.000 bytes"
