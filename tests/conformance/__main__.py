"""The conformance suite as a command, for any registry."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from getpass import getpass
from pathlib import Path
from typing import NoReturn

import httpx2
import pytest

from tests.conformance.clause import VERSIONS
from tests.conformance.client import Target, connected
from tests.conformance.results import FOLDER, PLUGIN, Results, chosen, comparison, listing

_ROOT = FOLDER.parents[1]

_DESCRIPTION = """\
Ask a registry whether it does what the OCI Distribution Specification says.

The registry is pushed to and deleted from, in new repositories below conformance/, which
are left as they are; nothing else in it is touched. A feature that is absent does not hold.
The exit status is 0 if every MUST holds, 1 if one does not, and 2 if none could be asked.
"""

_EXAMPLES = """\
examples:
  python -m tests.conformance https://registry.example.com --user ci --ca ca.crt
  python -m tests.conformance http://127.0.0.1:5000 --version dev --json peer.json
  python -m tests.conformance https://localhost:8443 --insecure --user ci --section referrers
  python -m tests.conformance --list --section tags
  python -m tests.conformance --compare ours.json peer.json
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("url", nargs="?", metavar="URL", help="the registry, as https://HOST[:PORT]")
    add(
        "--user",
        metavar="NAME",
        help="the account to log in as (Basic, no tokens); it must be allowed to delete",
    )
    add(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="a file with its password (or else: $REGISTRY_PASSWORD, or a question)",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--ca", type=Path, metavar="FILE", help="trust this certificate authority alone"
    )
    trust.add_argument("--insecure", action="store_true", help="trust any certificate")
    add("--http2", action="store_true", help="speak HTTP/2 instead of HTTP/1.1; needs https")
    add(
        "--version",
        choices=VERSIONS,
        default="1.1",
        help="the text to go by: the released one, or that under development (default: 1.1)",
    )
    add("--section", default="", metavar="WORD", help="only sections with this in their title")
    add("--strict", action="store_true", help="let a SHOULD that does not hold count as a MUST")
    add("--verbose", action="store_true", help="show where in a test it went wrong")
    add("--junit", type=Path, metavar="FILE", help="write what became of each test as JUnit XML")
    add("--json", type=Path, metavar="FILE", help="write whether each clause holds as JSON")
    add("--list", action="store_true", help="print the clauses with their tests, and ask nobody")
    add(
        "--compare",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="print a Markdown table of several files of --json, a column for each",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    asked = parser.parse_args(argv)
    clauses = chosen(asked.version, asked.section)
    if not clauses:
        parser.error(f"no section has {asked.section!r} in its title")
    if asked.compare:
        print(comparison({path.stem: _read(parser, path) for path in asked.compare}))
        return 0
    if asked.list:
        print(listing(clauses))
        return 0
    if asked.url is None:
        parser.error("which registry? An URL is missing")
    target = _target(parser, asked)
    _reach(parser, target)
    results = Results(target, clauses)
    told = pytest.main(_pytest_arguments(asked), plugins=[_Named(results)])
    if told not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        return 2
    print(results.summary())
    if asked.json is not None:
        words = {id_: "holds" if held else "fails" for id_, held in results.held.items()}
        asked.json.write_text(json.dumps(words, indent=1, sort_keys=True) + "\n")
    return 1 if results.broken(strict=asked.strict) else 0


class _Named:
    """Registers the results under the name by which tests find them."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def pytest_configure(self, config: pytest.Config) -> None:
        config.pluginmanager.register(self._results, PLUGIN)


def _pytest_arguments(asked: argparse.Namespace) -> list[str]:
    return [
        str(FOLDER),
        *("--rootdir", str(_ROOT), "-c", str(_ROOT / "pyproject.toml")),
        *("-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"),
        # The command has used the HTTP client already, and a plugin of pytest comes along with that.
        *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
        "--tb=short" if asked.verbose else "--tb=no",
        *(() if asked.junit is None else (f"--junit-xml={asked.junit}",)),
    ]


def _target(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> Target:
    try:
        url = httpx2.URL(asked.url)
    except httpx2.InvalidURL as error:
        parser.error(f"{asked.url!r} is no URL: {error}")
    if url.scheme not in {"http", "https"} or not url.host or url.path not in {"", "/"}:
        parser.error(f"{asked.url!r} does not read https://HOST[:PORT]")
    if asked.http2 and url.scheme != "https":
        parser.error("HTTP/2 is spoken over TLS only")
    return Target(
        asked.url, asked.user, _password(parser, asked), asked.ca, asked.insecure, asked.http2
    )


def _password(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> str:
    if asked.user is None:
        return ""
    if asked.password_file is not None:
        try:
            return str(asked.password_file.read_text().rstrip("\r\n"))
        except OSError as error:
            parser.error(f"{asked.password_file}: {error.strerror}")
    if "REGISTRY_PASSWORD" in os.environ:
        return os.environ["REGISTRY_PASSWORD"]
    return getpass(f"password of {asked.user}: ")


def _read(parser: argparse.ArgumentParser, path: Path) -> dict[str, str]:
    try:
        words = json.loads(path.read_text())
    except OSError as error:
        parser.error(f"{path}: {error.strerror}")
    except ValueError:
        parser.error(f"{path} was not written by --json")
    return {str(id_): str(word) for id_, word in words.items()}


def _reach(parser: argparse.ArgumentParser, target: Target) -> None:
    """Fail with one sentence rather than with every test."""
    try:
        with connected(target) as registry:
            status = registry.ask("GET", "/v2/").status
    except (httpx2.TransportError, OSError, AssertionError) as error:
        _give_up(parser, f"{target.url}: {error}")
    if status == 401:
        reason = "it wants a login, see --user" if target.user is None else "the login was refused"
        _give_up(parser, f"{target.url}: {reason}")


def _give_up(parser: argparse.ArgumentParser, reason: str) -> NoReturn:
    parser.exit(2, f"{parser.prog}: {reason}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
