"""Every example with curl in README.md, from "Ask it" on, does what it says.

The examples run in the order of the page, as one script in an empty folder, so that one may use what
an earlier one left. They find three variables: REGISTRY (host:port), CA (the authority's certificate)
and LOGIN (user:password).
"""

import re
from pathlib import Path

from tests.system.daemon import Daemon
from tests.system.tools import environment, run

_README = Path(__file__).parents[2] / "README.md"
_FENCE = re.compile(r"^```(?:sh|bash|shell)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CURL = re.compile(r"\bcurl\s+[-\"'$h]")


def test_the_examples_with_curl_work(registry: Daemon, tmp_path: Path) -> None:
    page = _README.read_text()
    script = ["set -euo pipefail"]
    for block in _FENCE.finditer(page, page.index("\n## Ask it\n")):
        if _CURL.search(block[1]):
            line = page.count("\n", 0, block.start()) + 1
            script.append(f"echo 'README.md, line {line}' >&2\n{block[1]}")
    assert len(script) > 1, "README.md shows no example with curl"
    run(
        "bash",
        "-c",
        "\n".join(script),
        cwd=tmp_path,
        env=environment(
            HOME=str(tmp_path),
            REGISTRY=registry.address,
            CA=str(registry.ca),
            LOGIN=registry.login,
        ),
    )
