"""Options that are text but mean numbers, boxes or lists."""

import pytest
import typer

from rsmamba_cli.commands.flags import (
    Inference,
    in_range,
    parse_bands,
    parse_batch_size,
    parse_bbox,
    parse_image_bands,
    parse_tile,
)
from rsmamba_cli.commands.mapping import plan_jobs, read_pairs, stem
from rsmamba_cli.errors import InputError


def test_bands() -> None:
    assert parse_bands("4,3, 2") == (4, 3, 2)


@pytest.mark.parametrize("text", ["", "a", "0", "1,,2", "-1", "1.5"])
def test_bands_that_are_none(text) -> None:
    with pytest.raises(typer.BadParameter):
        parse_bands(text)


@pytest.mark.parametrize(("text", "value"), [(None, None), ("full", "full"), ("96", 96)])
def test_tile(text, value) -> None:
    assert parse_tile(text) == value


@pytest.mark.parametrize("text", ["0", "-4", "big", "1.5"])
def test_tiles_that_are_none(text) -> None:
    with pytest.raises(typer.BadParameter):
        parse_tile(text)


def test_batch_size() -> None:
    assert (parse_batch_size("auto"), parse_batch_size("4")) == ("auto", 4)


def test_box_corners_come_in_any_order() -> None:
    assert parse_bbox("5,-2,1,7.5") == (1.0, -2.0, 5.0, 7.5)


@pytest.mark.parametrize("text", ["1,2,3", "1,2,1,4", "a,b,c,d", "1,2,nan,4", "0,0,inf,1"])
def test_boxes_that_are_none(text) -> None:
    with pytest.raises(typer.BadParameter):
        parse_bbox(text)


@pytest.mark.parametrize(("value", "fits"), [(0.0, True), (0.5, True), (1.0, False), (-1, False)])
def test_ranges(value, fits) -> None:
    if fits:
        assert in_range("--overlap", value, 0, 1, closed=(True, False)) == value
    else:
        with pytest.raises(typer.BadParameter):
            in_range("--overlap", value, 0, 1, closed=(True, False))


def test_flags_become_the_options_of_the_library() -> None:
    options = Inference(tile="64", bands="3,2,1", bbox="0,0,1,1", batch_size="2").options()
    assert (options.tile, options.bands, options.batch_size) == (64, (3, 2, 1), 2)
    assert (options.bbox, options.model) == ((0.0, 0.0, 1.0, 1.0), None)


def test_the_defaults_are_those_of_the_library() -> None:
    from rsmamba_cli.inference import PredictOptions

    options, default = Inference().options(), PredictOptions()
    assert options.memory_bytes() == default.memory_bytes()
    for name, value in vars(default).items():
        if name != "memory":
            assert getattr(options, name) == value, name


@pytest.mark.parametrize("word", [None, "", "demo"])
def test_no_model_and_demo_mean_the_embedded_one(word) -> None:
    assert Inference(model=word).options().model is None


def test_ways_to_treat_existing_outputs_exclude_each_other() -> None:
    with pytest.raises(typer.BadParameter):
        Inference(resume=True, overwrite=True).options()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b/scene.tif", "scene"),
        ("scene", "scene"),
        ("S2.SAFE.tif", "S2.SAFE"),
        ("/vsicurl/https://x.org/a/b.tif?key=1/2", "b"),
        ('NETCDF:"dir/f.nc":band', "f"),
        ("c:\\data\\scene.tif", "scene"),
        ("strange name (1).tif", "strange_name_1"),
    ],
)
def test_stems(name, expected) -> None:
    assert stem(name) == expected


def test_default_output_is_in_the_current_folder() -> None:
    (job,) = plan_jobs([("x/a.tif", "y/b.tif")], "_change.tif", None, None, Inference())
    assert str(job.output) == "a_b_change.tif"


def test_equal_stems_are_refused() -> None:
    with pytest.raises(InputError, match=r"a_mask\.tif"):
        plan_jobs([("x/a.tif",), ("y/a.tif",)], "_mask.tif", None, None, Inference())


def test_pairs_are_relative_to_their_table(tmp_path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("\ufeffid, t1, t2\n1, a.tif, /b.tif\n2, c/d.tif,https://x.org/e.tif\n")
    assert read_pairs(table, ("t1", "t2")) == [
        (str(tmp_path / "a.tif"), "/b.tif"),
        (str(tmp_path / "c/d.tif"), "https://x.org/e.tif"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n1,2\n", "columns t1 and t2"),
        ("t1,t2\n", "no pairs"),
        ("t1,t2\na.tif\n", "line 2"),
        ("", "columns t1 and t2"),
    ],
)
def test_tables_that_are_none(tmp_path, text, problem) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_pairs(table, ("t1", "t2"))


def test_a_missing_table_of_pairs(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv", ("t1", "t2"))


@pytest.mark.parametrize(
    ("text", "bands"),
    [
        (None, None),
        ("4,3,2", (4, 3, 2)),
        ("4,3,2/1", ((4, 3, 2), (1,))),
        ("/2", (None, (2,))),
    ],
)
def test_bands_of_one_image_and_of_each(text, bands) -> None:
    assert parse_image_bands(text) == bands
