"""The report in a run's folder."""

import html
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rsmamba_cli.app import app
from rsmamba_cli.datasets import open_dataset
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.training import train
from rsmamba_cli.training.recipe_files import overfitting
from rsmamba_cli.training.trainer import Trainer


def cells(page: str, heading: str) -> list[list[str]]:
    """The rows of the table whose header begins with ``heading``."""
    table = next(t for t in page.split("<table>") if re.match(rf"\s*<tr><th>{heading}", t))
    rows = table.split("</table>")[0].split("<tr>")[1:]
    return [[html.unescape(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t", r)] for r in rows]


@pytest.fixture
def finished(tmp_path: Path, tiny_config) -> str:
    loop = {"epochs": None, "steps": 4, "validate_every_steps": 2}
    train(tiny_config(loop=loop, optimiser={"lr": 0.002}), tmp_path / "run")
    return (tmp_path / "run/report.html").read_text()


def test_the_page_needs_no_other_file(finished: str) -> None:
    assert "http" not in finished and "<script" not in finished
    sources = re.findall(r'(?:src|href)="([^"]*)"', finished)
    # Two validation tiles: both among the worst, both among those chosen at random.
    assert len(sources) == 4 and all(s.startswith("data:image/png;base64,") for s in sources)


def test_shares_of_classes_are_those_of_the_labels(finished: str, buildings: Path) -> None:
    rows = cells(finished, "class</th><th>share")
    dataset = open_dataset("folder", buildings)
    for column, name in ((1, "train"), (2, "val")):
        split = dataset.split(name)
        share = np.mean([sample.label == 1 for sample in (split[i] for i in range(len(split)))])
        assert float(rows[2][column].removesuffix(" %")) == pytest.approx(100 * share, abs=0.006)


def test_the_confusion_is_that_of_the_latest_validation(finished: str) -> None:
    rows = cells(finished, r"truth \\ prediction")
    counts = np.array([[int(c.replace(",", "")) for c in row[1:]] for row in rows[1:]])
    assert counts.sum() == 2 * 64 * 64 and "at step\n4." in finished
    metrics = dict(cells(finished, "metric")[1:])
    assert float(metrics["oa"]) == pytest.approx(np.trace(counts) / counts.sum(), abs=1e-4)


def test_only_settings_that_differ_are_listed(finished: str) -> None:
    settings = {row[0]: row[1:] for row in cells(finished, "setting")}
    assert settings["optimiser.lr"] == ["0.002", "0.001"]
    assert "optimiser.weight_decay" not in settings and "weight_decay: 0.01" in finished


def test_curves_hold_every_line_of_the_log(finished: str) -> None:
    loss = finished.split("<figcaption>Loss")[1].split("</figure>")[0]
    lines = re.findall(r'points="([^"]*)"', loss)
    assert len(lines) == 3 and {len(line.split()) for line in lines} == {4}  # sum, ce, dice
    scores = finished.split("<figcaption>Scores")[1].split("</figure>")[0]
    assert {len(line.split()) for line in re.findall(r'points="([^"]*)"', scores)} == {2}


def test_its_commands_work(tmp_path: Path, tiny_config) -> None:
    out = tmp_path / "a run"
    train(tiny_config(loop={"steps": 2, "limit_steps": 1}), out)
    page = html.unescape((out / "report.html").read_text())
    assert "Not finished: 1 steps" in page
    commands = [shlex.split(c)[1:] for c in re.findall(r"<pre>(rsmamba .*?)</pre>", page)]
    assert [words[0] for words in commands] == ["train", "eval", "eval", "predict"]
    assert CliRunner().invoke(app, commands[0]).exit_code == 0
    page = html.unescape((out / "report.html").read_text())
    assert "Finished: 2 steps" in page and "--resume" not in page
    measure = shlex.split(re.findall(r"<pre>(rsmamba eval .*?)</pre>", page)[0])[1:]
    measure[-1] = str(tmp_path / "test.html")
    assert CliRunner().invoke(app, measure).exit_code == 0
    assert (tmp_path / "test.html").is_file()


def test_commands_fit_the_task_and_the_bands(
    tmp_path: Path, tiny_config, changes: Path, landcover: Path
) -> None:
    change = {"root": str(changes)}
    config = tiny_config(data=change, model={"name": "rsm_cd_nano"}, loop={"steps": 1})
    train(config, tmp_path / "change")
    page = (tmp_path / "change/report.html").read_text()
    assert "rsmamba change BEFORE.tif AFTER.tif -m" in page
    bands = {"root": str(landcover), "bands": [4, 3, 2]}
    train(tiny_config(data=bands, loop={"steps": 1}), tmp_path / "bands")
    page = html.unescape((tmp_path / "bands/report.html").read_text())
    measure = shlex.split(re.findall(r"<pre>(rsmamba eval .*?)</pre>", page)[0])[1:]
    assert measure[measure.index("--bands") + 1] == "4,3,2"
    measure[-1] = str(tmp_path / "val.html")
    done = CliRunner().invoke(app, measure)
    assert done.exit_code == 0, done.output


def test_a_killed_run_has_the_page_of_its_last_validation(
    tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(trainer: Trainer) -> None:
        if trainer.step >= 3:
            raise KeyboardInterrupt

    real = Trainer._note
    monkeypatch.setattr(Trainer, "_note", lambda self, sums: (real(self, sums), killed(self))[0])
    loop = {"epochs": None, "steps": 4, "validate_every_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(loop=loop), tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    assert "Not finished: 2 steps" in page and "Confusion" in page


def test_a_resumed_run_keeps_the_page_until_it_has_measured_anew(
    tmp_path: Path, tiny_config
) -> None:
    loop = {"epochs": None, "steps": 6, "validate_every_steps": 2}
    train(tiny_config(loop={**loop, "limit_steps": 2}), tmp_path / "run")
    before = (tmp_path / "run/report.html").read_text()
    train(tiny_config(loop={**loop, "limit_steps": 1}), tmp_path / "run", resume=True)
    assert (tmp_path / "run/report.html").read_text() == before
    train(tiny_config(loop=loop), tmp_path / "run", resume=True)
    page = (tmp_path / "run/report.html").read_text()
    loss = page.split("<figcaption>Loss")[1].split("points=")[1]
    assert "Finished: 6 steps" in page and len(loss.split('"')[1].split()) == 6


def test_a_tile_that_cannot_be_read_does_not_end_a_training(
    tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise DatasetError("label/7.png cannot be read")

    monkeypatch.setattr("rsmamba_cli.training.run_page.measure_shares", broken)
    assert train(tiny_config(loop={"steps": 1}), tmp_path / "run").finished
    assert "counted: label/7.png" in (tmp_path / "run/report.html").read_text()


def test_learning_what_is_measured_is_said(tmp_path: Path, tiny_config) -> None:
    config = overfitting(tiny_config(loop={"steps": 1}), 2)
    train(config, tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    assert cells(page, "split")[1] == ["train", "4", "learnt: the first 2, measured: the first 2"]
    assert len(cells(page, "class</th><th>share")[0]) == 2


def test_without_validation_there_is_a_page_too(tmp_path: Path, tiny_config) -> None:
    train(tiny_config(loop={"steps": 1}, data={"val_split": None}), tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text()
    assert "not measured yet" in page and "Confusion" not in page
