"""Faults that clients meet: on the way to a registry, in what it shows, and in what it answers."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import trustme

from tests.certificates import server_pem
from tests.pretenders import Said, pretending
from tests.system import daemon
from tests.system.daemon import PASSWORD, USER, account
from tests.system.patients import Patient, healthy, logged_in, names
from tests.system.tools import background, free_port, network, run
from tests.system.trust import DOCKER, trusting

_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_BASIC = {"WWW-Authenticate": 'Basic realm="Registry Realm"'}
_CHALLENGE = Said(401, b"{}", _VERSION | _BASIC)

# A resolver for one question at a time, of a namespace's own: it says that there is no such name.
_NO_SUCH_NAME = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 53))
    print("bound", flush=True)
    while True:
        asked, sender = sock.recvfrom(512)
        sock.sendto(asked[:2] + b"\\x81\\x83" + asked[4:6] + b"\\0" * 6 + asked[12:], sender)
"""
_SILENCE = _NO_SUCH_NAME.replace("sock.sendto(", "(lambda *_: None)(")


@contextmanager
def _resolver(folder: Path, script: str) -> Iterator[Patient]:
    with network() as net:
        told = folder / "resolver"
        argv = (*net.prefix, sys.executable, "-c", script)
        with background(*argv, log=told, up=lambda: "bound" in told.read_text()):
            conf = "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n"
            prefix = (*net.prefix, *names(folder, resolv_conf=conf))
            yield Patient(("registry.invalid", "--timeout", "0.8"), prefix=prefix)


@contextmanager
def unknown_name(folder: Path) -> Iterator[Patient]:
    with _resolver(folder, _NO_SUCH_NAME) as patient:
        yield patient


@contextmanager
def silent_resolver(folder: Path) -> Iterator[Patient]:
    with _resolver(folder, _SILENCE) as patient:
        yield patient


@contextmanager
def dead_ipv6(folder: Path) -> Iterator[Patient]:
    with healthy(folder) as site:
        hosts = "::1 both.invalid\n127.0.0.1 both.invalid localhost\n"
        port = site.daemon.address.rpartition(":")[2]
        yield Patient((f"both.invalid:{port}",), prefix=names(folder, hosts=hosts))


@contextmanager
def no_ipv6(folder: Path) -> Iterator[Patient]:
    """A client to whom no way leads to the second of two addresses, and the first one answers."""
    with network() as net, socket.create_server((net.ours, 0)) as server:
        hosts = f"2001:db8::1 both.invalid\n{net.ours} both.invalid\n"
        words = (f"both.invalid:{server.getsockname()[1]}", "--timeout", "0.5")
        yield Patient(words, prefix=(*net.prefix, *names(folder, hosts=hosts)))


@contextmanager
def nobody_listens(folder: Path) -> Iterator[Patient]:
    yield Patient((f"127.0.0.1:{free_port()}",))


@contextmanager
def port_that_drops(folder: Path) -> Iterator[Patient]:
    with network() as net:
        run(*net.prefix, "iptables", "-A", "INPUT", "-p", "tcp", "-j", "DROP")
        yield Patient((f"{net.theirs}:5000", "--timeout", "0.5"))


@contextmanager
def silent_server(folder: Path) -> Iterator[Patient]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Patient((f"127.0.0.1:{server.getsockname()[1]}", "--timeout", "0.5"))


@contextmanager
def plain_http(folder: Path) -> Iterator[Patient]:
    with pretending({"/v2/": _CHALLENGE}, pem=None) as address:
        yield Patient((address,))


@contextmanager
def http_on_purpose(folder: Path) -> Iterator[Patient]:
    with pretending({"/v2/": _CHALLENGE}, pem=None) as address:
        yield Patient((f"http://{address}",))


@contextmanager
def _shown(pem: Path, **variables: str) -> Iterator[Patient]:
    with pretending({"/v2/": _CHALLENGE}, pem=pem) as address:
        yield Patient((f"https://{address}",), variables)


@contextmanager
def unknown_authority(folder: Path) -> Iterator[Patient]:
    with healthy(folder) as site:
        login = logged_in(folder / "docker", site.daemon.address)
        yield Patient((site.daemon.address,), login)


@contextmanager
def self_signed(folder: Path) -> Iterator[Patient]:
    pem, key = folder / "self.crt", folder / "self.key"
    names = ("-subj", "/CN=self", "-addext", "subjectAltName=IP:127.0.0.1")
    new = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("openssl", "req", *new, "-keyout", key, "-out", pem, "-days", "9", *names)
    pem.write_text(pem.read_text() + key.read_text())
    with _shown(pem) as patient:
        yield patient


@contextmanager
def other_name(folder: Path) -> Iterator[Patient]:
    with _shown(server_pem(folder, trustme.CA(), "one.example", "10.1.2.3")) as patient:
        yield patient


@contextmanager
def expired(folder: Path) -> Iterator[Patient]:
    pem = server_pem(folder, trustme.CA(), "127.0.0.1", starts_in_days=-9, days=5)
    with _shown(pem) as patient:
        yield patient


@contextmanager
def not_yet_valid(folder: Path) -> Iterator[Patient]:
    with _shown(server_pem(folder, trustme.CA(), "127.0.0.1", starts_in_days=2)) as patient:
        yield patient


@contextmanager
def incomplete_chain(folder: Path) -> Iterator[Patient]:
    root = trustme.CA()
    root.cert_pem.write_to_path(folder / "root.crt")
    certificate = root.create_child_ca().issue_cert("127.0.0.1")
    pem = folder / "server.pem"
    pem.write_bytes(certificate.private_key_pem.bytes() + certificate.cert_chain_pems[0].bytes())
    with _shown(pem, SSL_CERT_FILE=str(folder / "root.crt")) as patient:
        yield patient


@contextmanager
def trusted_by_docker_alone(folder: Path) -> Iterator[Patient]:
    with healthy(folder) as site, trusting(site.daemon, DOCKER):
        podman = Path("/etc/containers/certs.d", site.daemon.address)
        podman.mkdir(parents=True)  # which keeps podman from looking where docker does
        try:
            yield Patient((site.daemon.address,))
        finally:
            podman.rmdir()


@contextmanager
def damaged_authority_file(folder: Path) -> Iterator[Patient]:
    with healthy(folder) as site, trusting(site.daemon, DOCKER) as shelf:
        (shelf / "ca.crt").write_text("<html>not found</html>\n")
        yield Patient((site.daemon.address,))


@contextmanager
def _answering(folder: Path, said: Said, **others: Said) -> Iterator[Patient]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    pem = server_pem(folder, authority, "127.0.0.1")
    answers = {"/v2/": said} | {f"/{name}": other for name, other in others.items()}
    with pretending(answers, pem=pem, otherwise=_CHALLENGE) as address:
        yield Patient((address,), {"SSL_CERT_FILE": str(folder / "ca.crt")})


@contextmanager
def clock_hours_off(folder: Path) -> Iterator[Patient]:
    then = format_datetime(datetime.now(UTC) - timedelta(hours=3), usegmt=True)
    said = Said(401, b"{}", _VERSION | _BASIC, date=then)
    with _answering(folder, said) as patient:
        yield patient


@contextmanager
def clock_minutes_ahead(folder: Path) -> Iterator[Patient]:
    then = format_datetime(datetime.now(UTC) + timedelta(minutes=3), usegmt=True)
    with _answering(folder, Said(401, b"{}", _VERSION | _BASIC, date=then)) as patient:
        yield patient


@contextmanager
def web_site(folder: Path) -> Iterator[Patient]:
    page = Said(404, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
    with _answering(folder, page) as patient:
        yield patient


@contextmanager
def proxy_without_registry(folder: Path) -> Iterator[Patient]:
    with _nginx(folder, f"proxy_pass http://127.0.0.1:{free_port()};") as patient:
        yield patient


@contextmanager
def proxy_that_minds_the_size(folder: Path) -> Iterator[Patient]:
    with (
        pretending({"/v2/": _CHALLENGE}, pem=None) as behind,
        _nginx(folder, f"proxy_pass http://{behind};") as patient,
    ):
        yield patient


@contextmanager
def proxy_that_hides_a_header(folder: Path) -> Iterator[Patient]:
    hide = "proxy_hide_header Docker-Distribution-Api-Version; client_max_body_size 0;"
    with (
        pretending({"/v2/": _CHALLENGE}, pem=None) as behind,
        _nginx(folder, f"proxy_pass http://{behind}; {hide}") as patient,
    ):
        yield patient


@contextmanager
def redirect_to_http(folder: Path) -> Iterator[Patient]:
    with _nginx(folder, "return 301 http://registry.invalid$request_uri;") as patient:
        yield patient


@contextmanager
def _nginx(folder: Path, location: str) -> Iterator[Patient]:
    """A real nginx with TLS in front of something."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    pem = server_pem(folder, authority, "127.0.0.1")
    address = f"127.0.0.1:{free_port()}"
    paths = " ".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths} server {{ listen {address} ssl;"
        f" ssl_certificate {pem}; ssl_certificate_key {pem}; location / {{ {location} }} }} }}\n"
    )

    def up() -> bool:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    argv = ("/usr/sbin/nginx", "-e", "stderr", "-c", folder / "nginx.conf")
    with background(*argv, log=folder / "nginx.log", up=up):
        yield Patient((address,), {"SSL_CERT_FILE": str(folder / "ca.crt")})


@contextmanager
def nameless_login(folder: Path) -> Iterator[Patient]:
    with _answering(folder, Said(401, b"{}", _VERSION)) as patient:
        yield patient


@contextmanager
def unreachable_tokens(folder: Path) -> Iterator[Patient]:
    realm = f'Bearer realm="https://127.0.0.1:{free_port()}/token",service="registry"'
    said = Said(401, b"{}", _VERSION | {"WWW-Authenticate": realm})
    with _answering(folder, said) as patient:
        yield patient


@contextmanager
def tokens_without_tls(folder: Path) -> Iterator[Patient]:
    realm = 'Bearer realm="http://registry.invalid/token",service="registry"'
    said = Said(401, b"{}", _VERSION | {"WWW-Authenticate": realm})
    with _answering(folder, said) as patient:
        yield patient


@contextmanager
def _with_login(folder: Path, login: str, more: str = "") -> Iterator[Patient]:
    with daemon.running(folder / "registry", more=more) as registry:
        with registry.htpasswd.open("a") as file:
            file.write(account("alice", PASSWORD))
        variables = logged_in(folder / "docker", registry.address, login)
        yield Patient((registry.address,), variables | {"SSL_CERT_FILE": str(registry.ca)})


@contextmanager
def wrong_password(folder: Path) -> Iterator[Patient]:
    with _with_login(folder, f"{USER}:wrong") as patient:
        yield patient


@contextmanager
def may_not_push(folder: Path) -> Iterator[Patient]:
    rule = '\n[[rule]]\nrepositories = ["*"]\naccounts = ["*"]\nallow = ["pull"]\n'
    with _with_login(folder, f"alice:{PASSWORD}", rule) as patient:
        yield patient


@contextmanager
def may_not_delete(folder: Path) -> Iterator[Patient]:
    rule = '\n[[rule]]\nrepositories = ["*"]\naccounts = ["*"]\nallow = ["pull", "push"]\n'
    with _with_login(folder, f"alice:{PASSWORD}", rule) as patient:
        yield patient


@contextmanager
def missing_helper(folder: Path) -> Iterator[Patient]:
    with _answering(folder, _CHALLENGE) as patient:
        kept = {"auths": {patient.words[0]: {}}, "credsStore": "nowhere"}
        (folder / "config.json").write_text(json.dumps(kept))
        yield Patient(patient.words, {**patient.variables, "DOCKER_CONFIG": str(folder)})


@contextmanager
def damaged_docker_config(folder: Path) -> Iterator[Patient]:
    with _answering(folder, _CHALLENGE) as patient:
        (folder / "config.json").write_text("{")
        yield Patient(patient.words, {**patient.variables, "DOCKER_CONFIG": str(folder)})
