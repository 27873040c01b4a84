"""``rsmamba bench`` from words to files, on tiny cases."""

import json
from pathlib import Path

import pytest
from bench_cases import LIMITS, TINY
from typer.testing import CliRunner, Result

import rsmamba_cli.bench
from rsmamba_cli.app import app
from rsmamba_cli.bench import Report, Scale, runner
from rsmamba_cli.bench.tables import BEGIN, END

ROOT = Path(__file__).parents[2]


def bench(*words: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, words)], env={"COLUMNS": "120"})


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list[tuple[str, Scale]]:
    """Tiny cases and known limits; holds which suites were asked for."""
    calls: list[tuple[str, Scale]] = []
    monkeypatch.setattr(
        rsmamba_cli.bench, "ops_suite", lambda scale: calls.append(("ops", scale)) or TINY[3:4]
    )
    monkeypatch.setattr(
        rsmamba_cli.bench,
        "model_suite",
        lambda name, scale: calls.append((name, scale)) or TINY[4:],
    )
    monkeypatch.setattr(runner.run_bench, "__kwdefaults__", {"limits": lambda: LIMITS})
    return calls


def test_ops_shows_the_machine_and_a_table_a_case() -> None:
    result = bench("ops", "--rounds", 1, "--no-memory")
    assert result.exit_code == 0, result.output
    assert "multiply-adds" in result.stdout
    assert "ops: mLSTM (heads 1, head 4, tokens 9)" in result.stdout


@pytest.mark.parametrize(
    ("words", "suites"),
    [
        (("ops",), ["ops"]),
        (("model", "rsm_cd_nano"), ["rsm_cd_nano"]),
        (("all",), ["ops", "rsm_ss_tiny", "rsm_ss_nano"]),
    ],
)
def test_what_is_measured(asked, words, suites) -> None:
    assert bench(*words, "--rounds", 1).exit_code == 0
    assert [name for name, _ in asked] == suites


@pytest.mark.parametrize(
    ("words", "scale"), [((), "normal"), (("--quick",), "quick"), (("--full",), "full")]
)
def test_how_much_is_measured(asked, words, scale) -> None:
    assert bench("ops", "--rounds", 1, *words).exit_code == 0
    assert asked[0][1].value == scale


def test_json_on_stdout_is_the_report() -> None:
    result = bench("ops", "--quick", "--threads", 2, "--json", "-")
    assert result.exit_code == 0, result.output
    report = Report.model_validate(json.loads(result.stdout))
    assert report.command == "rsmamba bench ops --quick --threads 2"
    assert report.threads == 2


def test_all_three_files_are_written(tmp_path) -> None:
    names = ("--json", "r.json"), ("--markdown", "r.md"), ("--html", "r.html")
    words = [word for option, name in names for word in (option, tmp_path / name)]
    result = bench("ops", "--rounds", 1, *words)
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((tmp_path / "r.json").read_text())
    assert {record.case for record in report.records} == {"mLSTM"}
    for name in ("r.md", "r.html"):
        assert "chunkwise" in (tmp_path / name).read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "r.md", "r.html"}


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_an_existing_file_is_refused_before_measuring(tmp_path, asked, option) -> None:
    path = tmp_path / "mine"
    path.write_text("mine")
    result = bench("ops", option, path)
    assert (result.exit_code, asked, path.read_text()) == (1, [], "mine")
    assert "--overwrite" in result.stderr


def test_overwrite_replaces_a_file(tmp_path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    assert bench("ops", "--rounds", 1, "--json", path, "--overwrite").exit_code == 0
    assert Report.model_validate_json(path.read_text()).scale == "normal"


def test_a_markdown_file_without_a_section_is_refused_before_measuring(tmp_path, asked) -> None:
    path = tmp_path / "mine.md"
    path.write_text("mine")
    result = bench("ops", "--markdown", path)
    assert (result.exit_code, asked, path.read_text()) == (1, [], "mine")


def test_a_missing_folder_is_refused_before_measuring(tmp_path, asked) -> None:
    result = bench("ops", "--html", tmp_path / "nowhere" / "r.html")
    assert (result.exit_code, asked) == (1, [])
    assert "no such folder" in result.stderr


def test_quick_and_full_are_a_usage_error() -> None:
    assert bench("ops", "--quick", "--full").exit_code == 2


def test_an_unknown_model_is_refused_before_measuring(asked) -> None:
    result = bench("model", "rsm_ss_nono")
    assert (result.exit_code, asked) == (1, [])
    assert "rsm_ss_nano" in result.stderr


@pytest.mark.parametrize("words", [(), ("ops",), ("model",), ("all",)])
def test_every_bench_command_has_help(words) -> None:
    result = bench(*words, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: rsmamba {' '.join(('bench', *words))}")


def test_the_documentation_has_a_section_for_the_results() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert (text.count(BEGIN), text.count(END)) == (1, 1)


def test_profile_splits_a_pass_by_operators() -> None:
    result = bench("profile", "rsm_ss_nano", "--side", 32, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    names = [row["name"] for row in found["operators"]]
    assert {"rsmamba::projected_scan", "rsmamba::directional_scan"} & set(names)
    assert names[-1] == "everything else"
    assert sum(row["share"] for row in found["operators"]) == pytest.approx(1)
    seconds = [row["seconds"] for row in found["operators"][:-1]]
    assert seconds == sorted(seconds, reverse=True)


def test_profile_refuses_unknown_models() -> None:
    result = bench("profile", "rsm_ss_nanoo")
    assert result.exit_code == 1
    assert "rsm_ss_nano" in result.output
