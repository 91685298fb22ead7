"""What a person needs to know of a registry: where it is, and the commands that come next."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from appliance import __version__
from appliance.firststart import ADMINISTRATOR, names, password_note
from appliance.serve.certificates import Authority
from appliance.settings import Address, Settings
from appliance.trust.shelves import lines_for_hosts

_DEFAULT_PORTS = {"https": 443, "http": 80}


def public_url(settings: Settings, listen: Sequence[Address]) -> str:
    """Give the address to show people: the one that is set, else name and port of this machine."""
    if settings.server.public_url:
        return settings.server.public_url
    scheme = "http" if settings.tls.mode == "off" else "https"
    first = listen[0] if listen else Address.of("::", _DEFAULT_PORTS[scheme])
    host = names(settings)[0] if _is_everywhere(first.host) else first.host
    host = f"[{host}]" if ":" in host else host
    port = "" if first.port == _DEFAULT_PORTS[scheme] else f":{first.port}"
    return f"{scheme}://{host}{port}"


def describe(settings: Settings, listen: Sequence[Address], authority: Authority | None) -> str:
    """Describe the registry and tell what a docker, podman or containerd user types next."""
    url = public_url(settings, listen)
    host = urlsplit(url).netloc
    note = password_note(settings)
    lines = [
        f"Registry {__version__} at {url}",
        "",
        f"  listens on   {', '.join(listen) or 'nothing'}",
        f"  data         {settings.data}",
        f"  accounts     {settings.htpasswd}",
    ]
    if note.exists():
        lines.append(f"  first login  {ADMINISTRATOR}, with the password in {note}")
    if authority is not None:
        lines += [
            f"  authority    {authority.certificate_path}, also at {url}/ca.crt",
            f"               SHA-256 {authority.fingerprint}",
            "",
            *_trust(url, host),
        ]
    elif settings.tls.mode == "off":
        lines += [
            "",
            "TLS is off: unless a proxy in front encrypts, passwords travel readable. Clients need",
            "",
            f'  docker       "insecure-registries": ["{host}"] in /etc/docker/daemon.json',
            "  podman       --tls-verify=false with login, push and pull",
        ]
    lines += [
        "",
        "Then log in and push:",
        "",
        f"  docker login {host}          (or podman login, nerdctl login)",
        f"  docker tag IMAGE {host}/IMAGE && docker push {host}/IMAGE",
        "",
        "Pods pull with a secret, which their spec names: imagePullSecrets: [{name: registry}]",
        "",
        f"  kubectl create secret docker-registry registry --docker-server={host} \\",
        '    --docker-username=NAME --docker-password="$(cat PASSWORD-FILE)"',
        "",
        f"If something does not work: registry doctor, here; registry doctor {host}, on a client.",
        "Accounts: registry user add NAME. All of this again: registry info.",
    ]
    return "\n".join(lines)


def _trust(url: str, host: str) -> list[str]:
    def install(client: str) -> str:
        return f"sudo install -D -m 644 ca.crt /etc/{client}/certs.d/{host}/ca.crt"

    folder = f"/etc/containerd/certs.d/{host}"
    return [
        "Clients trust it once. Where this program is installed (pip, or a package):",
        "",
        f"  sudo registry trust {host}",
        "",
        "Elsewhere fetch the authority, compare it with the line above, and put it where they look:",
        "",
        f"  curl -fsSk {url}/ca.crt -o ca.crt",
        "  openssl x509 -in ca.crt -noout -fingerprint -sha256",
        "",
        f"  docker       {install('docker')}",
        f"  podman       {install('containers')}",
        f"  containerd   {install('containerd')}",
        f"""               printf '[host."{url}"]\\n  ca = "{folder}/ca.crt"\\n' |""",
        f"                 sudo tee {folder}/hosts.toml",
        "  Kubernetes   the same on every node; and in its /etc/containerd/config.toml, once:",
        *(f"               {line}" for line in lines_for_hosts()),
    ]


def _is_everywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
