"""What an examination found: a line for each thing looked at, and beneath it what to do."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec


class Status(StrEnum):
    """How something stands."""

    OK = "ok"
    WARNING = "warning"
    """It works now, or for some."""
    FAULT = "fault"
    UNSEEN = "unseen"
    """It could not be looked at; the sentence says why."""


_MARKS = {Status.OK: "ok", Status.WARNING: "warn", Status.FAULT: "FAIL", Status.UNSEEN: "-"}
_WORSE = (Status.FAULT, Status.WARNING)


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    """The kind of check, in a word."""
    subject: str
    """What was looked at: a file, an address, a name."""
    status: Status
    sentence: str
    remedy: tuple[str, ...] = ()
    """What to do, best of all a command to copy; a line each."""


class Report:
    """Findings in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def ok(self, check: str, subject: object, sentence: str, *remedy: str) -> None:
        """Add something that is well."""
        self._add(Status.OK, check, subject, sentence, remedy)

    def warn(self, check: str, subject: object, sentence: str, *remedy: str) -> None:
        """Add something that will trouble somebody."""
        self._add(Status.WARNING, check, subject, sentence, remedy)

    def fault(self, check: str, subject: object, sentence: str, *remedy: str) -> None:
        """Add something that does not work."""
        self._add(Status.FAULT, check, subject, sentence, remedy)

    def unseen(self, check: str, subject: object, sentence: str, *remedy: str) -> None:
        """Add something that could not be looked at."""
        self._add(Status.UNSEEN, check, subject, sentence, remedy)

    @property
    def worst(self) -> Status:
        """The worst of all; what could not be looked at counts as well."""
        found = {finding.status for finding in self.findings}
        return next((status for status in _WORSE if status in found), Status.OK)

    def has_trouble(self, check: str) -> bool:
        """Tell whether a check found something that is not well."""
        return any(one.check == check and one.status in _WORSE for one in self.findings)

    def lines(self) -> Iterable[str]:
        """Write it for people."""
        width = max((len(finding.check) for finding in self.findings), default=0)
        for finding in self.findings:
            head = f" {_MARKS[finding.status]:<4}  {finding.check:<{width}}  "
            yield f"{head}{finding.subject}: {finding.sentence}."
            indent = " " * (len(head) + 2)
            for remedy in finding.remedy:
                yield from (f"{indent}{line}" for line in remedy.splitlines())
        yield ""
        yield self._summary()

    def document(self) -> dict[str, Any]:
        """Give it for machines."""
        return {"status": self.worst, "findings": msgspec.to_builtins(self.findings)}

    def _summary(self) -> str:
        faults, warnings = (
            sum(finding.status is status for finding in self.findings) for status in _WORSE
        )
        unseen = sum(finding.status is Status.UNSEEN for finding in self.findings)
        if not faults and not warnings and unseen:
            return f"All that was seen is well; {_count(unseen, 'thing')} could not be looked at."
        if not faults and not warnings:
            return "All is well."
        return f"{_count(faults, 'fault')}, {_count(warnings, 'warning')}."

    def _add(
        self, status: Status, check: str, subject: object, sentence: str, remedy: tuple[str, ...]
    ) -> None:
        self.findings.append(
            Finding(check, printable(str(subject)), status, printable(sentence), remedy)
        )


def printable(text: str) -> str:
    """Write what may come from somebody else so that a terminal only shows it, on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"
