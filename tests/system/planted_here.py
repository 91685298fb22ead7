"""Faults of a registry's own machine, each really there while its context lasts."""

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.certificates import server_pem
from tests.system.patients import Patient, Site, disk, healthy, strong_line
from tests.system.tools import network, run
from tests.unprivileged import NOBODY


def _files(folder: Path, pem: Path) -> Site:
    mode = {"mode": "files", "certificate": str(pem), "key": str(pem)}
    pem.chmod(0o600)
    return Site(folder, {"tls": mode})


@contextmanager
def misspelt_setting(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.settings.write_text(site.settings.read_text().replace("format =", "fromat ="))
    yield site.patient()


@contextmanager
def no_settings(folder: Path) -> Iterator[Patient]:
    yield Patient(("--settings", folder / "registry.toml"))


@contextmanager
def damaged_catalogue(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.start_once()
    (site.data / "catalogue.sqlite3").write_bytes(b"no database at all" * 1000)
    yield site.patient()


@contextmanager
def weak_hash(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    run("htpasswd", "-bm", site.htpasswd, "alice", "secret")
    yield site.patient()


@contextmanager
def plain_password(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.htpasswd.write_text(f"{strong_line()}alice:secret\n")
    yield site.patient()


@contextmanager
def empty_password_file(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.htpasswd.write_text("")
    yield site.patient()


@contextmanager
def lost_password_file(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.start_once()
    site.htpasswd.unlink()
    yield site.patient()


@contextmanager
def open_data_folder(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.start_once()
    site.data.chmod(0o755)
    yield site.patient()


@contextmanager
def open_key(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.start_once()
    (site.data / "tls" / "server.key").chmod(0o644)
    yield site.patient()


@contextmanager
def open_settings(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.settings.chmod(0o666)
    yield site.patient()


@contextmanager
def files_of_root(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.start_once()
    for path in (site.data, *site.data.rglob("*")):
        if path.name != "server.key":
            shutil.chown(path, NOBODY, NOBODY)
    yield site.patient()


@contextmanager
def full_disk(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    fill = "dd if=/dev/zero of=filler bs=64k status=none || true"
    yield site.patient(prefix=disk(folder / "image", site.data, f"{fill} 2>/dev/null"))


@contextmanager
def no_inodes(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    fill = 'i=0; while : 2>/dev/null > "f$i"; do i=$((i + 1)); done'
    prefix = disk(folder / "image", site.data, f"({fill}) 2>/dev/null || true", "-N", "64")
    yield site.patient(prefix=prefix)


@contextmanager
def expired_certificate(folder: Path) -> Iterator[Patient]:
    pem = server_pem(folder, trustme.CA(), "127.0.0.1", starts_in_days=-9, days=5)
    yield _files(folder, pem).patient()


@contextmanager
def certificate_of_tomorrow(folder: Path) -> Iterator[Patient]:
    pem = server_pem(folder, trustme.CA(), "127.0.0.1", starts_in_days=1)
    yield _files(folder, pem).patient()


@contextmanager
def foreign_key(folder: Path) -> Iterator[Patient]:
    site = _files(folder, server_pem(folder, trustme.CA(), "127.0.0.1"))
    other = folder / "other.key"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(other)
    text = site.settings.read_text()
    pem = str(folder / "server.pem")
    site.settings.write_text(text.replace(f'key = "{pem}"', f'key = "{other}"'))
    yield site.patient()


@contextmanager
def broken_chain(folder: Path) -> Iterator[Patient]:
    between = trustme.CA().create_child_ca()
    certificate = between.issue_cert("127.0.0.1")
    pem = folder / "server.pem"
    pem.write_bytes(certificate.private_key_pem.bytes() + certificate.cert_chain_pems[0].bytes())
    yield _files(folder, pem).patient()


@contextmanager
def certificate_without_the_name(folder: Path) -> Iterator[Patient]:
    site = _files(folder, server_pem(folder, trustme.CA(), "127.0.0.1", "localhost"))
    text = site.settings.read_text()
    url = "https://registry.invalid"
    site.settings.write_text(text.replace("[server]\n", f'[server]\npublic_url = "{url}"\n'))
    yield site.patient()


@contextmanager
def taken_port(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    host, _, port = site.daemon.address.rpartition(":")
    with socket.create_server((host, int(port))):
        yield site.patient("--timeout", "0.5")


# The first process of a namespace: it has a port, and then runs what follows.
_FIRST = """
import socket, subprocess, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))):
    sys.exit(subprocess.run(sys.argv[3:]).returncode)
"""


@contextmanager
def port_of_a_socket_unit(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    host, _, port = site.daemon.address.rpartition(":")
    first = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", _FIRST)
    yield site.patient("--timeout", "0.5", prefix=(*first, host, port))


@contextmanager
def stopped_registry(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    site.start_once()
    yield site.patient()


@contextmanager
def firewall_that_drops(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    port = site.daemon.address.rpartition(":")[2]
    with network() as net:
        rule = ("-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP")
        run(*net.prefix, "iptables", *rule)
        yield site.patient("--timeout", "0.5", prefix=net.prefix)


@contextmanager
def firewall_of_nft(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    port = site.daemon.address.rpartition(":")[2]
    rules = (
        "add table inet filter\n"
        "add chain inet filter input { type filter hook input priority 0; policy accept; }\n"
        f"add rule inet filter input tcp dport {{ 25, {port} }} reject\n"
    )
    with network() as net:
        run(*net.prefix, "nft", "-f", "-", given=rules)
        yield site.patient("--timeout", "0.5", prefix=net.prefix)


@contextmanager
def firewall_that_accepts_others(folder: Path) -> Iterator[Patient]:
    site = Site(folder)
    with network() as net:
        accept = ("-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
        run(*net.prefix, "iptables", *accept)
        run(*net.prefix, "iptables", "-P", "INPUT", "DROP")
        yield site.patient("--timeout", "0.5", prefix=net.prefix)


@contextmanager
def proxy_in_the_way(folder: Path) -> Iterator[Patient]:
    with healthy(folder) as site:
        yield site.patient(HTTPS_PROXY="http://alice:hidden@proxy.invalid:3128")
