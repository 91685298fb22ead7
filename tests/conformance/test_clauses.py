"""The suite itself: every clause has a test, and every test says which clauses it is about."""

import inspect

from tests.conformance.clauses import CLAUSES, TABLE, named_by
from tests.conformance.results import modules, named_tests


def test_every_clause_has_a_test_and_every_test_names_clauses_that_exist() -> None:
    assert set(named_tests()) == set(CLAUSES)


def test_every_test_of_the_registry_is_about_a_clause() -> None:
    silent = [
        name
        for module in modules()
        if module.__name__ != __name__
        for name, test in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and not named_by(test)
    ]
    assert not silent


def test_no_clause_has_the_id_of_another() -> None:
    assert len(CLAUSES) == sum(len(section) for section in TABLE)
