"""`registry doctor`: each fault is really there, and is found with its remedy; health is found to be health."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system import daemon, debian, images, patients, planted_here, planted_there
from tests.system.daemon import PASSWORD, USER
from tests.system.patients import Patient, Site, logged_in
from tests.system.tools import run
from tests.unprivileged import NOBODY

OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True)
class Row:
    """A fault, and what is to be said of it."""

    plant: Callable[[Path], AbstractContextManager[Patient]]
    check: str
    status: str
    sentence: str
    remedy: str


HERE, THERE = planted_here, planted_there
FAULTS = (
    # On the registry's machine.
    Row(HERE.misspelt_setting, "settings", FAULT, "log.fromat is unknown", "remove it"),
    Row(HERE.no_settings, "settings", FAULT, "there is no such file", "--settings"),
    Row(HERE.damaged_catalogue, "settings", FAULT, "catalogue.sqlite3", "registry rebuild"),
    Row(HERE.weak_hash, "passwords", WARNING, "MD5 (apr1)", "registry user passwd alice"),
    Row(HERE.plain_password, "passwords", WARNING, "plain text", "registry user passwd"),
    Row(HERE.empty_password_file, "passwords", FAULT, "nobody can log in", "registry user add"),
    Row(HERE.lost_password_file, "passwords", FAULT, "is not there", "backup"),
    Row(HERE.open_data_folder, "mode", FAULT, "everybody on this machine may read", "chmod o= "),
    Row(HERE.open_key, "mode", FAULT, "everybody on this machine may read", "server.key"),
    Row(HERE.open_settings, "mode", FAULT, "everybody on this machine may change", "chmod o-w"),
    Row(HERE.files_of_root, "owner", FAULT, "not nobody's, as whom", "chown -R nobody:"),
    Row(HERE.full_disk, "room", FAULT, "pushes are refused", "registry gc"),
    Row(HERE.no_inodes, "room", FAULT, "inodes", "df -i"),
    Row(HERE.expired_certificate, "certificate", FAULT, "expired on", "renew it"),
    Row(HERE.certificate_of_tomorrow, "certificate", FAULT, "is not valid before", "clock"),
    Row(HERE.foreign_key, "certificate", FAULT, "does not belong to", "the key with which"),
    Row(HERE.broken_chain, "certificate", WARNING, "the chain breaks off", "cat issuer.crt >>"),
    Row(
        HERE.certificate_without_the_name,
        "certificate",
        FAULT,
        "is not for registry.invalid, by which clients are told to come",
        "public_url",
    ),
    Row(HERE.taken_port, "port", FAULT, "has this port", "systemctl stop"),
    Row(HERE.port_of_a_socket_unit, "port", WARNING, "systemd keeps this port", "list-sockets"),
    Row(HERE.stopped_registry, "port", FAULT, "the registry does not run", "registry serve"),
    Row(HERE.firewall_that_drops, "firewall", WARNING, "-j DROP", "-j ACCEPT"),
    Row(HERE.firewall_of_nft, "firewall", WARNING, "nft seems to keep", "accept"),
    Row(HERE.firewall_that_accepts_others, "firewall", WARNING, "its policy drops", "-j ACCEPT"),
    Row(HERE.proxy_in_the_way, "proxy", WARNING, "proxy.invalid:3128", "NO_PROXY=127.0.0.1"),
    # On the way.
    Row(THERE.unknown_name, "name", FAULT, "there is no such name", "/etc/hosts"),
    Row(THERE.silent_resolver, "name", FAULT, "the resolver does not answer", "/etc/resolv.conf"),
    Row(THERE.dead_ipv6, "tcp", WARNING, "this IPv6 address of both.invalid", "take ::1 out"),
    Row(THERE.nobody_listens, "tcp", FAULT, "the connection is refused", "systemctl start"),
    Row(THERE.port_that_drops, "tcp", FAULT, "a firewall drops it", "ufw allow 5000/tcp"),
    # In what is shown.
    Row(THERE.silent_server, "tls", FAULT, "does not end within", "openssl s_client"),
    Row(THERE.plain_http, "tls", FAULT, "it speaks plain HTTP", "insecure-registries"),
    Row(THERE.http_on_purpose, "tls", WARNING, "travel readable", "insecure-registries"),
    Row(THERE.unknown_authority, "trust", FAULT, "nor this system trust", "registry trust 127"),
    Row(THERE.self_signed, "trust", FAULT, "is self-signed", "-fingerprint -sha256"),
    Row(
        THERE.other_name, "names", FAULT, "it is for one.example, 10.1.2.3", 'names = ["127.0.0.1"]'
    ),
    Row(THERE.expired, "validity", FAULT, "expired on", "renew it"),
    Row(THERE.not_yet_valid, "validity", FAULT, "one of the clocks is wrong", "set-ntp true"),
    Row(THERE.incomplete_chain, "trust", FAULT, "the chain is incomplete", "after it"),
    Row(
        THERE.trusted_by_docker_alone,
        "trust",
        WARNING,
        "docker trusts the certificate; podman, containerd, curl and the rest of the system do not",
        "--for podman",
    ),
    Row(THERE.damaged_authority_file, "trust", WARNING, "is not a certificate", "registry trust"),
    # In what is answered.
    Row(THERE.clock_hours_off, "clock", FAULT, "3 hours behind", "set-ntp true"),
    Row(THERE.clock_minutes_ahead, "clock", WARNING, "3 minutes ahead of", "set-ntp true"),
    Row(THERE.web_site, "registry", FAULT, "404 with text/html", "check the host and the port"),
    Row(THERE.proxy_without_registry, "registry", FAULT, "a proxy answers 502", "systemctl status"),
    Row(THERE.proxy_that_minds_the_size, "body", FAULT, "(413)", "client_max_body_size 0"),
    Row(THERE.proxy_that_hides_a_header, "registry", WARNING, "lacks Docker-", "add_header"),
    Row(THERE.redirect_to_http, "registry", FAULT, "plain HTTP", "X-Forwarded-Proto"),
    Row(THERE.nameless_login, "challenge", FAULT, "without saying which kind", "WWW-Authenticate"),
    Row(THERE.unreachable_tokens, "challenge", FAULT, "cannot be reached", "public_url"),
    Row(THERE.tokens_without_tls, "challenge", FAULT, "is not encrypted", "public_url"),
    Row(THERE.wrong_password, "login", FAULT, "is not taken: 401", "docker login -u tester"),
    Row(THERE.may_not_push, "push", WARNING, "alice may not push there", "--repository NAME"),
    Row(THERE.may_not_delete, "delete", WARNING, "alice may not delete", "registry rm --yes"),
    Row(THERE.missing_helper, "password", FAULT, "docker-credential-nowhere", "install it"),
    Row(THERE.damaged_docker_config, "password", FAULT, "is not what docker writes", "rm "),
)


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row.plant.__name__)
def test_a_fault_is_found_with_its_remedy(row: Row, tmp_path: Path) -> None:
    with row.plant(tmp_path) as patient:
        examined = patient.examine()
    found = [
        one
        for one in examined.trouble()
        if (one["check"], one["status"]) == (row.check, row.status)
        and row.sentence in one["sentence"]
    ]
    assert found, examined.said
    assert row.remedy in "\n".join(found[0]["remedy"]), found
    assert "hidden" not in examined.said  # the password of a proxy
    if row.status == FAULT:
        assert examined.status == 1
    else:
        faults = [one for one in examined.findings if one["status"] == FAULT]
        assert examined.status == (1 if faults else 0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with patients.healthy(tmp_path_factory.mktemp("healthy")) as site:
        yield site


def test_a_healthy_registry_is_well_on_its_machine(site: Site, tmp_path: Path) -> None:
    login = logged_in(tmp_path / "docker", site.daemon.address)
    examined = site.patient(**login).examine()
    assert not examined.trouble(), examined.said
    assert examined.status == 0
    well = {one["check"] for one in examined.findings if one["status"] == OK}
    for check in ("settings", "passwords", "mode", "room", "certificate", "port", "tcp", "trust"):
        assert check in well
    assert well > {"clock", "registry", "body", "login", "push", "pull", "delete"}


def test_a_healthy_registry_is_well_for_a_client_that_trusts_it(site: Site) -> None:
    address = site.daemon.address
    program = (sys.executable, "-m", "appliance")
    run(*program, "trust", address, "--yes")
    try:
        words = (f"https://{address}/", "--user", USER, "--password-stdin")
        examined = Patient(words, given=f"{PASSWORD}\n").examine()
    finally:
        run(*program, "trust", address, "--remove")
        _remove_shelves()
    assert not examined.trouble(), examined.said
    assert examined.status == 0
    assert all(one["status"] == OK for one in examined.findings), examined.said
    assert {one["check"] for one in examined.findings} > {"login", "push", "pull", "delete"}
    catalog = site.daemon.client().request("GET", "/v2/_catalog").expect(200).json()
    assert catalog == {"repositories": []}


def _remove_shelves() -> None:
    for name in ("docker", "containers", "containerd"):
        folder = Path("/etc", name, "certs.d")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def test_the_first_password_is_used_while_it_is_noted(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.htpasswd.unlink()
    site.settings.write_text(site.settings.read_text().replace(f'["{USER}"]', '["admin"]'))
    try:
        site.daemon.start()
        examined = site.patient().examine()
        password = (site.data / "admin-password").read_text().strip()
        site.daemon.stop()
    finally:
        site.daemon.kill()
    assert not examined.trouble(), examined.said
    (login,) = [one for one in examined.findings if one["check"] == "login"]
    assert login["status"] == OK
    assert "admin-password" in login["sentence"]
    assert password not in examined.said


def test_a_data_folder_may_be_a_disk_of_its_own(tmp_path: Path) -> None:
    site = Site(tmp_path)
    prefix = patients.disk(tmp_path / "image", site.data, f"chown {NOBODY} . && test -d lost+found")
    assert _owned(site.patient(prefix=prefix)) == "nobody's, as far as looked at: 1 of its"


def test_a_data_folder_may_be_a_link(tmp_path: Path) -> None:
    site = Site(tmp_path)
    shutil.rmtree(site.data, ignore_errors=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "blobs").mkdir(parents=True)
    for path in (elsewhere, elsewhere / "blobs"):
        shutil.chown(path, NOBODY)
    site.data.symlink_to(elsewhere)
    assert _owned(site.patient()) == "nobody's, as far as looked at: 2 of its"


def _owned(patient: Patient) -> str:
    """What is said of whose the data folder is, where that is well."""
    (found,) = [one for one in patient.examine().findings if one["check"] == "owner"]
    assert found["status"] == OK, found
    return str(found["sentence"]).removesuffix(" files and folders")


def test_a_client_without_ipv6_blames_nobody(tmp_path: Path) -> None:
    with THERE.no_ipv6(tmp_path) as patient:
        examined = patient.examine()
    found = {one["subject"]: one for one in examined.findings if one["check"] == "tcp"}
    (unseen,) = [one for subject, one in found.items() if subject.startswith("[2001:db8::1]:")]
    assert (unseen["status"], unseen["remedy"]) == ("unseen", [])
    assert [one["status"] for one in found.values() if one is not unseen] == [OK]


def test_a_push_goes_where_an_account_may_push_and_leaves_what_is_there(tmp_path: Path) -> None:
    rule = '\n[[rule]]\nrepositories = ["team/*"]\naccounts = ["*"]\nallow = ["pull", "push", "delete"]\n'
    with daemon.running(tmp_path / "registry", more=rule) as registry:
        with registry.htpasswd.open("a") as file:
            file.write(daemon.account("alice", PASSWORD))
        layers = [images.tree({"srv/doctor": b"there before"})]
        layout = images.layout_of(tmp_path / "layout", layers)
        registry.client().push_layout("team/app", "1", layout)
        trusting = {"SSL_CERT_FILE": str(registry.ca)}
        there = (registry.address, "--repository", "team/app")
        for user in ("alice", USER):  # an administrator may delete whole repositories
            words = (*there, "--user", user, "--password-stdin")
            examined = Patient(words, trusting, given=f"{PASSWORD}\n").examine()
            assert not examined.trouble(), examined.said
            well = {one["check"] for one in examined.findings if one["status"] == OK}
            assert well > {"push", "pull", "delete"}
        tags = registry.client().request("GET", "/v2/team/app/tags/list").expect(200).json()
    assert tags["tags"] == ["1"]


def test_it_is_told_in_lines_for_people(site: Site) -> None:
    done = site.daemon.command("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert f" ok    port         {site.daemon.address}: the registry listens" in done.stdout
    assert " -     login        " in done.stdout
    assert "\n\nAll that was seen is well; " in done.stdout


def test_whoever_is_not_root_is_told_what_stays_unseen(site: Site) -> None:
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    told = {
        "REGISTRY_SERVER_LISTEN": site.daemon.address,
        "REGISTRY_STORAGE_PATH": str(site.data),
        "REGISTRY_AUTH_HTPASSWD": str(site.htpasswd),
    }
    examined = Patient((), told, prefix=("setpriv", *ids)).examine()
    unseen = {one["check"]: one for one in examined.findings if one["status"] == "unseen"}
    for check in ("settings", "passwords", "mode", "owner", "certificate", "port"):
        assert unseen[check]["remedy"][-1:] == ["sudo registry doctor"] or check == "owner"
    # What it sees of the registry it sees as a client.
    assert [one["check"] for one in examined.trouble()] == ["trust"], examined.said
    closed = Patient(("--settings", site.settings), prefix=("setpriv", *ids)).examine()
    assert [one["sentence"] for one in closed.findings] == ["only root may read it"]


def test_what_systemd_knows_is_told(rootfs: Path, deb: Path, tmp_path: Path) -> None:
    system = debian.unpacked(rootfs, tmp_path / "system")
    try:
        debian.booted(
            system,
            tmp_path / "outside",
            """
            cd /outside
            dpkg --install /package/*.deb
            echo "127.0.0.1 $(hostname)" >>/etc/hosts
            systemctl enable --now registry
            registry doctor --json >well
            systemctl stop registry
            systemctl enable --now registry.socket
            systemctl start registry
            registry doctor --json >held
            systemctl disable --now registry.socket
            systemctl restart registry
            systemctl disable registry
            touch /var/lib/registry/blobs/of-root
            registry doctor --json >worse || test $? = 1
            systemctl stop registry
            registry doctor --json --timeout 1 >stopped || test $? = 1
            echo "[nonsense]" >>/etc/registry.toml
            systemctl start registry || true
            until systemctl is-failed registry; do sleep 0.1; done
            registry doctor --json >failed || test $? = 1
            """,
            f"--bind-ro={deb.parent}:/package",
        )
    finally:
        shutil.rmtree(system)

    def trouble(stage: str) -> list[tuple[str, str, str]]:
        report = json.loads((tmp_path / "outside" / stage).read_text())
        assert {one["check"] for one in report["findings"]} >= {"settings", "service"}
        return [
            (one["check"], one["status"], one["remedy"][0])
            for one in report["findings"]
            if one["status"] in (WARNING, FAULT)
            and one["subject"] != "this machine"  # whose clock is that of whoever runs this
        ]

    disabled = ("service", WARNING, "systemctl enable registry")
    mine = ("owner", FAULT, "chown -R registry: /var/lib/registry")
    start = "systemctl start registry"
    assert trouble("well") == []
    assert "admin-password is right" in (tmp_path / "outside" / "well").read_text()
    assert trouble("held") == []
    held = (tmp_path / "outside" / "held").read_text()
    assert held.count("and systemd keeps the port for it") == 2  # with TLS, and without
    assert trouble("worse") == [mine, disabled]
    assert trouble("stopped") == [
        mine,
        ("service", FAULT, start),
        disabled,
        ("port", FAULT, start),
        ("tcp", FAULT, f"on the registry's machine: {start}, then: registry info"),
    ]
    assert trouble("failed") == [
        ("settings", FAULT, "remove it"),
        ("service", FAULT, "journalctl -u registry -n 50"),
        disabled,
    ]


def test_no_password_goes_to_whom_nobody_believes(site: Site, tmp_path: Path) -> None:
    login = logged_in(tmp_path / "docker", site.daemon.address)
    before = len(site.daemon.log())
    examined = Patient((site.daemon.address,), login).examine()
    (found,) = [one for one in examined.findings if one["check"] == "login"]
    assert found["status"] == "unseen"
    assert f'"account":"{USER}"' not in site.daemon.log()[before:]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["registry.example/path"], "says more than where the registry is"),
        (["registry.example", "--password-stdin"], "--password-stdin needs --user"),
        (["registry.example", "--repository", "Team"], "repository names are lower case"),
    ],
)
def test_a_slip_is_a_sentence(site: Site, words: list[str], sentence: str) -> None:
    done = site.daemon.command("doctor", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_examination_needs_is_here() -> None:
    assert all(shutil.which(name) for name in ("iptables", "nft", "nsenter", "unshare", "podman"))
