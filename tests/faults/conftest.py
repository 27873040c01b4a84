"""Counting trials: what was done to runs whose result was then found to be right."""

from collections import Counter

import pytest

TRIALS = pytest.StashKey[Counter]()


@pytest.fixture
def trials(pytestconfig):
    """What was tried, by kind; a test counts a trial after it has looked at the outcome."""
    return pytestconfig.stash.setdefault(TRIALS, Counter())


def pytest_terminal_summary(terminalreporter, config):
    """Say how many trials of which kind there were."""
    found = config.stash.get(TRIALS, Counter())
    if not found:
        return
    terminalreporter.section("fault trials: the same bytes as undisturbed, or a refusal that fits")
    kills = sum(count for kind, count in found.items() if kind.startswith("kills"))
    for kind, count in found.items():
        terminalreporter.write_line(f"{count:5} {kind}")
    terminalreporter.write_line(f"{kills:5} kills in all, {sum(found.values())} trials")
