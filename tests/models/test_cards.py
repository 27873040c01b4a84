"""Model cards: complete, current, and the same wherever they are shown."""

import json

import pytest
from typer.testing import CliRunner

from rsmamba_cli.bench.zoo import README, multiply_adds
from rsmamba_cli.commands.models import app
from rsmamba_models import list_models, model_info
from rsmamba_models.zoo.cards import SIDES, families, into_readme, read_card, read_measured

NANO = [name for name in list_models() if "nano" in name]


def test_every_architecture_has_its_own_figures():
    measured = read_measured()
    assert list(measured) == list_models()
    parameters = {name: model_info(name)["parameters"] for name in measured}
    assert {name: row["parameters"] for name, row in measured.items()} == parameters


@pytest.mark.parametrize("name", NANO)
def test_multiply_adds_are_those_of_the_code(name):
    assert read_measured()[name]["512"]["multiply_adds"] == multiply_adds(name, 512)


@pytest.mark.parametrize("name", list_models())
def test_costs_grow_with_the_image(name):
    small, large = (read_measured()[name][str(side)] for side in SIDES)
    assert large["multiply_adds"] > 15 * small["multiply_adds"]
    assert large.get("bytes", small["bytes"] + 1) > small["bytes"]


@pytest.mark.parametrize("family", families())
def test_a_card_scores_architectures_of_its_family(family):
    card = read_card(family)
    assert {model_info(name)["family"] for name in card.scores} <= {family}
    assert all(text for _, text in card.texts())


def test_the_page_holds_the_cards():
    text = README.read_text(encoding="utf-8")
    assert into_readme(text) == text


@pytest.mark.parametrize("name", ["segman_nano", "rs_mamba_tiny_unet"])
def test_a_name_shows_its_card(name):
    done = CliRunner().invoke(app, [name, "--json"])
    (shown,) = json.loads(done.stdout)
    assert shown["name"] == name
    assert shown["card"]["differences"]
