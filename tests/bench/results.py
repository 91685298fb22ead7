"""What was measured, and the table that says so."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.bench.cases import CASES
from tests.bench.steps import Measures

OURS = "ours"


class Row(NamedTuple):
    """One measure of one step of one case."""

    case: str
    step: str
    measure: str


class Results:
    """Every measurement of every round."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._samples: list[dict[str, Any]] = []
        self.failures: list[str] = []

    def add(self, case: str, step: str, column: str, number: int, measures: Measures) -> None:
        """Take down what one server did in one round."""
        self._samples.append(
            {"case": case, "step": step, "server": column, "round": number, "measures": measures}
        )

    def raw(self) -> list[dict[str, Any]]:
        """All of it, for other programs."""
        return self._samples

    def markdown(self) -> str:
        """The medians, and ours divided by each of the others."""
        others = [column for column in self._columns if column != OURS and OURS in self._columns]
        head = ["", *self._columns, *(f"ours / {column}" for column in others)]
        lines = [_line(head), _line(["---", *["--:"] * (len(head) - 1)])]
        for row, values in self._medians().items():
            cells = [_number(values.get(column)) for column in self._columns]
            cells += [_quotient(values.get(OURS), values.get(column)) for column in others]
            lines.append(_line([f"{row.case}: {row.step}, {row.measure}", *cells]))
        return "\n".join(lines)

    def _medians(self) -> dict[Row, dict[str, float]]:
        rounds: dict[Row, dict[str, dict[int, float]]] = {}
        for sample in self._samples:
            for measure, value in sample["measures"].items():
                row = Row(sample["case"], sample["step"], measure)
                of_column = rounds.setdefault(row, defaultdict(dict))[sample["server"]]
                of_column[sample["round"]] = value
        for name, case in CASES.items():
            for above, below, measure in case.quotients:
                upper, lower = (rounds.get(Row(name, step, measure), {}) for step in (above, below))
                rounds[Row(name, f"{above} / {below}", measure)] = {
                    column: {
                        number: value / lower[column][number]
                        for number, value in values.items()
                        if lower.get(column, {}).get(number)
                    }
                    for column, values in upper.items()
                }
        order = list(CASES)
        return {
            row: {
                column: statistics.median(values.values())
                for column, values in columns.items()
                if values
            }
            for row, columns in sorted(rounds.items(), key=lambda item: order.index(item[0].case))
            if columns
        }


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _quotient(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else "–"
