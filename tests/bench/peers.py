"""The registries that are compared: ours, and Debian's docker-registry set up in three ways.

All of them show the same certificate, and keep their data below one folder, each in its own.
"""

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import bcrypt
import trustme

from tests.bench.connection import Target
from tests.bench.server import Server
from tests.system.tools import free_port

USER = "bench"
PASSWORD = "correct horse battery"
ACCOUNTS = "htpasswd"

_HOST = "127.0.0.1"
_BCRYPT_COST = 5

# Debian installs nginx where not everybody looks.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class MissingError(Exception):
    """A program that is to be compared is not installed."""


class Site(NamedTuple):
    """What all servers share: a folder, a certificate with its key, and who issued it."""

    folder: Path
    certificate: Path
    key: Path
    authority: Path

    def target(self, port: int, *, login: bool) -> Target:
        """Where a server answers and, unless it lets everybody in, as whom to ask."""
        authorization = basic(USER, PASSWORD) if login else ""
        return Target(_HOST, port, str(self.authority), authorization)


def basic(name: str, password: str) -> str:
    """Say with a password who asks."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def write_accounts(file: Path, names: Sequence[str], cost: int) -> None:
    """Write a password file in which all have the same hash."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(cost)).decode()
    file.write_text("".join(f"{name}:{hashed}\n" for name in names))


def make_site(folder: Path) -> Site:
    """Make a P-256 certificate."""
    site = Site(folder, folder / "server.crt", folder / "server.key", folder / "ca.crt")
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = authority.issue_cert(_HOST, "localhost", key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(site.authority)
    leaf.private_key_pem.write_to_path(site.key)
    site.certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
    return site


def ours(site: Site, program: Path) -> Server:
    """Our daemon, with a settings file as somebody with a certificate and accounts has one."""
    folder = _folder(site, "ours")
    port = free_port()
    settings = folder / "registry.toml"
    settings.write_text(f"""\
[server]
listen = ["{_HOST}:{port}"]

[tls]
mode = "files"
certificate = "{site.certificate}"
key = "{site.key}"

[storage]
path = "{folder / "data"}"

[auth]
htpasswd = "{_accounts(folder)}"
""")
    command = (_program(str(program), "pip install ."), "serve", "--settings", str(settings))
    return Server("ours", site.target(port, login=True), folder, command)


def bcrypt_peer(site: Site) -> Server:
    """docker-registry with TLS and accounts of its own."""
    folder = _folder(site, "b5")
    port = free_port()
    auth = f"auth:\n  htpasswd:\n    realm: Registry\n    path: {_accounts(folder)}\n"
    command = _docker_registry(folder, port, tls=site, more=auth)
    return Server("b5", site.target(port, login=True), folder, command)


def open_peer(site: Site) -> Server:
    """docker-registry with TLS of its own, for everybody."""
    folder = _folder(site, "tls")
    port = free_port()
    command = _docker_registry(folder, port, tls=site)
    return Server("tls", site.target(port, login=False), folder, command)


def proxied_peer(site: Site) -> Server:
    """docker-registry without either, behind an nginx with both."""
    folder = _folder(site, "nginx")
    port, behind = free_port(), free_port()
    registry = _docker_registry(folder, behind)
    accounts = folder / ACCOUNTS
    hashed = ("openssl", "passwd", "-apr1", PASSWORD)
    done = subprocess.run(hashed, check=True, capture_output=True, text=True)
    accounts.write_text(f"{USER}:{done.stdout}")
    configuration = folder / "nginx.conf"
    configuration.write_text(_nginx(site, folder, port, behind))
    program, log = _program("nginx", "apt-get install nginx-light"), str(folder / "nginx.log")
    nginx = (program, "-e", log, "-c", str(configuration), "-g", "daemon off;")
    return Server("nginx", site.target(port, login=True), folder, registry, nginx)


# Each peer by its name, which is also its column.
PEERS: dict[str, Callable[[Site], Server]] = {
    "b5": bcrypt_peer,
    "tls": open_peer,
    "nginx": proxied_peer,
}


def _folder(site: Site, name: str) -> Path:
    folder = site.folder / name
    folder.mkdir()
    return folder


def _program(name: str, installing: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise MissingError(f"{name} is not here: {installing}")
    return found


def _accounts(folder: Path) -> Path:
    accounts = folder / ACCOUNTS
    write_accounts(accounts, [USER], _BCRYPT_COST)
    return accounts


def _docker_registry(
    folder: Path, port: int, *, tls: Site | None = None, more: str = ""
) -> tuple[str, ...]:
    """Write what Debian's package installs as configuration, but for addresses and folders."""
    certificate = ""
    if tls is not None:
        certificate = f"  tls:\n    certificate: {tls.certificate}\n    key: {tls.key}\n"
    configuration = folder / "config.yml"
    configuration.write_text(f"""\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: {folder / "data"}
  delete:
    enabled: true
http:
  addr: {_HOST}:{port}
  secret: bench
  headers:
    X-Content-Type-Options: [nosniff]
{certificate}{more}\
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
""")
    return (
        _program("docker-registry", "apt-get install docker-registry"),
        "serve",
        str(configuration),
    )


def _nginx(site: Site, folder: Path, port: int, behind: int) -> str:
    """Return the proxy of docker-registry's manual, in Debian's nginx.conf.

    It may hold more connections than Debian's 768 a worker, or it would turn some away.
    """
    user = "user root;\n" if os.getuid() == 0 else ""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder / kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
{user}worker_processes auto;
pid {folder / "nginx.pid"};
events {{ worker_connections 4096; }}
http {{
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    default_type application/octet-stream;
    gzip on;
    access_log {folder / "access.log"};
{temporary}
    upstream docker-registry {{ server {_HOST}:{behind}; }}
    map $upstream_http_docker_distribution_api_version $docker_distribution_api_version {{
        '' 'registry/2.0';
    }}
    server {{
        listen {_HOST}:{port} ssl;
        server_name localhost;
        ssl_certificate {site.certificate};
        ssl_certificate_key {site.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_prefer_server_ciphers on;
        ssl_session_cache shared:SSL:10m;
        client_max_body_size 0;
        chunked_transfer_encoding on;
        location /v2/ {{
            auth_basic "Registry";
            auth_basic_user_file {folder / ACCOUNTS};
            add_header Docker-Distribution-Api-Version $docker_distribution_api_version always;
            proxy_pass http://docker-registry;
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout 900;
        }}
    }}
}}
"""
