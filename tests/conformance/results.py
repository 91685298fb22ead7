"""Which clauses hold: gathered from the tests as they run, and told as tables."""

import importlib
import inspect
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.conformance.clause import Clause, Version
from tests.conformance.clauses import CLAUSES, named_by
from tests.conformance.client import Target

PLUGIN = "conformance"
"""The name under which the tests find what the runner was told."""

FOLDER = Path(__file__).resolve().parent
_CUT = 300


class Results:
    """A plugin of pytest: runs the tests of some clauses, and keeps what became of each."""

    def __init__(self, target: Target, clauses: Iterable[Clause]) -> None:
        self.target = target
        self.clauses = tuple(clauses)
        self._wanted = {clause.id for clause in self.clauses}
        self._ran: set[str] = set()
        self._failures: dict[str, str] = {}
        """What happened first, by clause."""

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what is about none of the clauses."""
        chosen = [item for item in items if _ids(item) & self._wanted]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note what became of a test; one that was left out has shown nothing."""
        report = yield
        ids = _ids(item)
        if call.when == "call" and report.passed:
            self._ran |= ids
        if not report.passed:
            said = call.excinfo.exconly() if call.excinfo is not None else "it was left out"
            for id_ in ids:
                self._failures.setdefault(id_, f"{item.name}: {_one_line(said)}")
        return report

    @property
    def held(self) -> dict[str, bool]:
        """Whether each clause holds: some test was about it, and all such passed."""
        return {id_: id_ in self._ran and id_ not in self._failures for id_ in self._wanted}

    def broken(self, *, strict: bool) -> list[Clause]:
        """List the clauses that cost conformance; strictly, recommendations too."""
        held = self.held
        counted = {"MUST", "MUST NOT"} | ({"SHOULD", "SHOULD NOT"} if strict else set())
        return [one for one in self.clauses if one.level in counted and not held[one.id]]

    def summary(self) -> str:
        """Make a table by section, and below it what does not hold and why."""
        held = self.held
        lines = ["", f"{'section':<48}{'held':>5}{'of':>5}"]
        for section, clauses in by_section(self.clauses).items():
            count = sum(held[one.id] for one in clauses)
            lines.append(f"{section:<48}{count:>5}{len(clauses):>5}")
        lines.append(f"{'all':<48}{sum(held.values()):>5}{len(held):>5}")
        failing = [one for one in self.clauses if not held[one.id]]
        for one in failing:
            happened = self._failures.get(one.id, "no test of it ran")
            lines += ["", f"{one.level}  {one.section}: {one.sentence}  [{one.id}]"]
            lines.append("    " + happened[:_CUT])
        if not failing:
            lines += ["", "Everything holds."]
        return "\n".join(lines)


def by_section(clauses: Iterable[Clause]) -> dict[str, list[Clause]]:
    """Group clauses under their titles, in the order of the text."""
    sections: dict[str, list[Clause]] = {}
    for one in clauses:
        sections.setdefault(one.section, []).append(one)
    return sections


def listing(clauses: Sequence[Clause]) -> str:
    """Make the table of clauses: title, level, sentence, tests."""
    tests = named_tests()
    lines: list[str] = []
    for section, several in by_section(clauses).items():
        lines += ["", section]
        for one in several:
            said = "" if one.said == "1.1" else f" ({one.said})"
            lines.append(f"  {one.level:<11}{one.sentence}{said}  [{one.id}]")
            lines += [f"  {'':<11}  {test}" for test in tests.get(one.id, ())]
    return "\n".join(lines[1:])


def comparison(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Make a Markdown table of the clauses that hold, by section, for several registries."""
    names = list(columns)
    known = [one for one in CLAUSES.values() if any(one.id in held for held in columns.values())]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]

    def row(title: str, clauses: Sequence[Clause]) -> str:
        cells = (
            f"{sum(held.get(one.id) == 'holds' for one in clauses)} / {len(clauses)}"
            for held in columns.values()
        )
        return f"| {title} | {' | '.join(cells)} |"

    lines += [row(section, clauses) for section, clauses in by_section(known).items()]
    lines.append(row("**All**", known))
    for word in ("MUST", "SHOULD", "MAY"):
        of_level = [one for one in known if one.level.startswith(word)]
        if of_level:
            lines.append(row(f"of these {word}", of_level))
    return "\n".join(lines)


def modules() -> list[ModuleType]:
    """Import the test modules of the suite."""
    names = sorted(path.stem for path in FOLDER.glob("test_*.py"))
    return [importlib.import_module(f"tests.conformance.{name}") for name in names]


def named_tests() -> dict[str, list[str]]:
    """Find the tests of each clause, by what they say of themselves."""
    found: dict[str, list[str]] = {}
    for module in modules():
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and test.__module__ == module.__name__:
                for id_ in named_by(test):
                    found.setdefault(id_, []).append(f"{module.__name__.rpartition('.')[2]}.{name}")
    return found


def chosen(version: Version, section: str) -> list[Clause]:
    """Choose the clauses of a version whose title contains some words."""
    return [
        one
        for one in CLAUSES.values()
        if one.applies(version) and section.lower() in one.section.lower()
    ]


def _ids(item: pytest.Item) -> set[str]:
    return {id_ for mark in item.iter_markers("clause") for id_ in mark.args}


def _one_line(text: str) -> str:
    lines = text.removeprefix("AssertionError: ").splitlines() or [""]
    return " ".join(lines[0].split())
