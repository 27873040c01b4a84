"""The scene generator: labels that fit, the same scene for a seed, any size."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_cli.datasets.generator import (
    CLASS_NAMES,
    GeneratedScene,
    Place,
    make_scene,
    make_tile,
)
from rsmamba_cli.datasets.scenery.conditions import draw_conditions
from rsmamba_cli.datasets.scenery.frame import Frame, swept_box
from rsmamba_cli.datasets.scenery.render import View
from rsmamba_cli.datasets.scenery.textures import BANK, noise_bank
from rsmamba_cli.errors import InputError

FIELDS = ("t1", "t2", "building", "building2", "change", "classes")


def near_outline(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within ``reach`` (chessboard distance) of a border between 0 and 1."""
    edge = np.zeros(mask.shape, bool)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:-1] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    for _ in range(reach):
        grown = edge.copy()
        grown[1:] |= edge[:-1]
        grown[:-1] |= edge[1:]
        edge = grown.copy()
        edge[:, 1:] |= grown[:, :-1]
        edge[:, :-1] |= grown[:, 1:]
    return edge


@pytest.fixture(scope="module")
def tiles() -> list[GeneratedScene]:
    return [make_tile(seed, 192, 0.5) for seed in range(24)]


def test_the_same_seed_gives_the_same_scene() -> None:
    first, second = (make_scene(5, 96, 130, 0.4) for _ in range(2))
    for name in FIELDS:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_another_seed_gives_another_scene() -> None:
    assert not np.array_equal(make_tile(1, 64).t1, make_tile(2, 64).t1)


def test_a_seed_may_have_several_parts() -> None:
    assert not np.array_equal(make_tile((3, 0), 64).t1, make_tile((3, 1), 64).t1)


def test_numpy_integers_are_seeds() -> None:
    assert np.array_equal(make_tile(np.int64(9), 48).t1, make_tile(9, 48).t1)


@pytest.mark.parametrize("seed", [-1, (), (4, -2)])
def test_a_bad_seed_is_refused(seed: int | tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="seed"):
        make_tile(seed)


@pytest.mark.parametrize(("height", "width", "gsd"), [(0, 5, 0.5), (5, 0, 0.5), (9, 9, 0.0)])
def test_a_bad_size_is_refused(height: int, width: int, gsd: float) -> None:
    with pytest.raises(InputError):
        make_scene(0, height, width, gsd)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    gsd=st.floats(0.1, 5.0),
)
def test_any_size_and_seed_works(seed: int, height: int, width: int, gsd: float) -> None:
    scene = make_scene(seed, height, width, gsd)
    assert scene.t1.shape == scene.t2.shape == (3, height, width)
    assert scene.t1.dtype == scene.t2.dtype == np.uint8
    for name in FIELDS[2:]:
        label = getattr(scene, name)
        assert label.shape == (height, width)
        assert label.dtype == np.uint8
        assert label.max() < (len(CLASS_NAMES) if name == "classes" else 2)


def test_without_shift_change_is_exactly_where_buildings_differ() -> None:
    for seed in range(6):
        scene = make_scene(seed, 128, 128, shift=0.0)
        assert np.array_equal(scene.change, scene.building ^ scene.building2)


def test_with_shift_they_differ_only_at_outlines(tiles: list[GeneratedScene]) -> None:
    for scene in tiles:
        reach = math.ceil(max(abs(s) for s in scene.shift))
        odd = scene.change != (scene.building ^ scene.building2)
        outline = near_outline(scene.building, reach) | near_outline(scene.building2, reach)
        inner = (slice(2, -2), slice(2, -2))
        assert not (odd & ~outline)[inner].any()


def test_the_shift_stays_below_its_bound(tiles: list[GeneratedScene]) -> None:
    assert all(max(abs(s) for s in scene.shift) <= 0.6 for scene in tiles)
    assert len({scene.shift for scene in tiles}) == len(tiles)


def test_buildings_are_common_and_change_is_not_rare(tiles: list[GeneratedScene]) -> None:
    built = np.mean([scene.building.mean() for scene in tiles])
    changed = np.mean([scene.change.mean() for scene in tiles])
    assert 0.08 < built < 0.35
    assert 0.01 < changed < 0.15


def test_some_scenes_do_not_change_at_all() -> None:
    assert any(make_tile(seed, 96, 0.5).change.sum() == 0 for seed in range(12))


def test_buildings_appear_and_vanish() -> None:
    scenes = [make_tile(seed, 160, 0.6) for seed in range(16)]
    assert any(((s.building == 0) & (s.change == 1)).sum() > 100 for s in scenes)
    assert any(((s.building == 1) & (s.change == 1)).sum() > 100 for s in scenes)


def test_unchanged_ground_still_looks_different(tiles: list[GeneratedScene]) -> None:
    differences = [
        np.abs(s.t1.astype(int) - s.t2.astype(int))[:, s.change == 0].mean() for s in tiles
    ]
    assert np.median(differences) > 8


def edge_strength(scene: GeneratedScene, rows: int, cols: int) -> float:
    """Mean brightness step across the label's outline after moving the label."""
    grey = scene.t1.astype(np.float64).mean(0)
    label = np.roll(scene.building, (rows, cols), (0, 1)).astype(np.int8)
    inner = (slice(8, -8), slice(8, -8))
    steps_y = np.abs(np.diff(grey, axis=0, append=0))[inner][
        np.diff(label, axis=0, append=0)[inner] != 0
    ]
    steps_x = np.abs(np.diff(grey, axis=1, append=0))[inner][
        np.diff(label, axis=1, append=0)[inner] != 0
    ]
    return float(np.concatenate([steps_y, steps_x]).mean())


def test_labels_lie_exactly_on_the_edges_in_the_image(tiles: list[GeneratedScene]) -> None:
    moves = [(0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)]
    built = [s for s in tiles if s.building.mean() > 0.05]
    strengths = np.array([[edge_strength(s, *move) for move in moves] for s in built]).mean(0)
    assert strengths.argmin() != 0
    assert strengths[0] > 1.5 * strengths[1:].max()


def test_no_straight_shift_of_the_label_fits_better(tiles: list[GeneratedScene]) -> None:
    built = [s for s in tiles if s.building.mean() > 0.05]
    moves = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
    strengths = np.array([[edge_strength(s, *move) for move in moves] for s in built]).mean(0)
    assert moves[int(strengths.argmax())] == (0, 0)


def test_buildings_are_a_class_of_their_own(tiles: list[GeneratedScene]) -> None:
    for scene in tiles:
        assert np.array_equal(
            scene.classes == CLASS_NAMES.index("building"), scene.building.astype(bool)
        )


def test_all_land_covers_occur() -> None:
    found = set()
    for seed in range(60):
        found |= set(np.unique(make_tile(seed, 128, 1.0).classes).tolist())
    assert found == set(range(len(CLASS_NAMES)))


def test_tiles_draw_their_pixel_size() -> None:
    sizes = [make_tile(seed, 32).gsd for seed in range(20)]
    assert all(0.3 <= gsd <= 1.0 for gsd in sizes)
    assert len(set(sizes)) == 20


def test_large_scenes_have_no_seams_between_chunks() -> None:
    # Neighbouring columns across the border of two chunks (512 pixels) differ as much as others.
    scene = make_scene(11, 128, 1100, 0.5)
    steps = np.abs(np.diff(scene.t1.astype(np.float64), axis=2)).mean((0, 1))
    assert steps[511] < steps.mean() + 4 * steps.std()


def test_one_place_looks_the_same_in_overlapping_views() -> None:
    place = Place(4, 120.0, 120.0)
    whole = place.building(0, View(0.0, 0.0, 0.5, 200, 200))
    part = place.building(0, View(20.0, 30.0, 0.5, 100, 120))
    assert np.array_equal(whole[60:160, 40:160], part)


def test_a_place_keeps_its_buildings_at_another_resolution() -> None:
    place = Place(3, 160.0, 160.0)
    fine = place.building(0, View(0.0, 0.0, 0.5, 320, 320))
    coarse = place.building(0, View(0.0, 0.0, 1.0, 160, 160))
    assert fine.any()
    shrunk = fine.reshape(160, 2, 160, 2).mean((1, 3)) >= 0.5
    overlap = (shrunk & (coarse == 1)).sum() / (shrunk | (coarse == 1)).sum()
    assert overlap > 0.93


def test_noise_repeats_without_a_seam() -> None:
    for field in noise_bank():
        across = np.abs(field[:, 0] - field[:, BANK - 1]).mean()
        assert across < 1.3 * np.abs(np.diff(field, axis=1)).mean()


def test_shadows_fall_away_from_the_sun() -> None:
    for seed in range(8):
        date = draw_conditions(np.random.default_rng(seed))
        dx, dy = date.shadow_offset(10.0)
        assert dx * date.sun[0] + dy * date.sun[1] < 0
        assert math.hypot(dx, dy) == pytest.approx(10 * math.hypot(*date.sun[:2]) / date.sun[2])


def test_a_face_towards_the_sun_is_brighter_than_one_away_from_it() -> None:
    date = draw_conditions(np.random.default_rng(3))
    x, y, _ = date.sun
    flat = math.hypot(x, y)
    towards = date.lit(0.4 * x / flat, 0.4 * y / flat, math.sqrt(1 - 0.16))
    away = date.lit(-0.4 * x / flat, -0.4 * y / flat, math.sqrt(1 - 0.16))
    assert towards > date.lit(0.0, 0.0, 1.0) > away


@given(st.integers(0, 2**32), st.floats(-500, 500), st.floats(-500, 500))
def test_the_street_grid_never_folds(seed: int, p: float, q: float) -> None:
    frame = Frame.draw(np.random.default_rng(seed))
    x0, y0 = frame.point(p, q)
    xp, yp = frame.point(p + 1e-3, q)
    xq, yq = frame.point(p, q + 1e-3)
    area = (xp - x0) * (yq - y0) - (yp - y0) * (xq - x0)
    assert area > 0.8e-6


@given(st.floats(0, 6.28), st.floats(-9, 9), st.floats(-9, 9))
def test_a_swept_box_has_the_area_of_the_box_and_its_track(
    angle: float, dx: float, dy: float
) -> None:
    ux, uy = math.cos(angle), math.sin(angle)
    points = np.array(swept_box(1.0, 2.0, ux, uy, 3.0, 2.0, dx, dy)).reshape(-1, 2)
    x, y = points.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    track = 6 * abs(-dx * uy + dy * ux) + 4 * abs(dx * ux + dy * uy)
    assert area == pytest.approx(24 + track)
