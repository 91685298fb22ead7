"""Whom one believes who asks: the authority that a client keeps for a registry, and the system's."""

from pathlib import Path

import pytest
import trustme

from appliance.doctor.asking import Asker
from appliance.doctor.presented import Believed
from appliance.trust.exchange import NoAnswerError
from appliance.trust.place import Place
from tests.certificates import server_pem
from tests.pretenders import Said, pretending


def test_the_system_counts_beside_what_a_client_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, public, other = trustme.CA(), trustme.CA(), trustme.CA()
    public.cert_pem.write_to_path(tmp_path / "public.crt")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.crt"))
    answers = {"/": Said(200)}

    def reached(authority: trustme.CA, asker: Asker) -> int:
        pem = server_pem(tmp_path, authority, "127.0.0.1")
        with pretending(answers, pem=pem) as address:
            return asker.ask("GET", f"https://{address}/").status

    believed = Believed(wholly=True, authorities=own.cert_pem.bytes().decode())
    with Asker(Place.parse("registry.example"), believed, 5) as asker:
        assert reached(own, asker) == 200
        assert reached(public, asker) == 200
        with pytest.raises(NoAnswerError, match="CERTIFICATE_VERIFY_FAILED"):
            reached(other, asker)
