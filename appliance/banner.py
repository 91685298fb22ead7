"""What a person needs to know of a registry: where it is, and the commands that come next."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from appliance import __version__
from appliance.firststart import ADMINISTRATOR, names, password_note
from appliance.serve.certificates import Authority
from appliance.settings import Address, Settings

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
        f"Registry {__version__}  {url}",
        "",
        f"  listens on   {', '.join(listen) or 'nothing'}",
        f"  data         {settings.data}",
        f"  accounts     {settings.htpasswd}   (registry user list, registry user add NAME)",
    ]
    if note.exists():
        lines.append(f"  first login  {ADMINISTRATOR}, password in {note}")
    if authority is not None:
        lines += [
            f"  authority    {authority.certificate_path}, also at {url}/ca.crt",
            f"               SHA-256 {authority.fingerprint}",
            "",
            *_trust(url, host, str(authority.certificate_path)),
        ]
    elif settings.tls.mode == "off":
        lines += [
            "",
            "TLS is off: passwords travel readable unless a proxy in front encrypts. Clients need",
            f'  docker       "insecure-registries": ["{host}"] in /etc/docker/daemon.json',
            f"  podman       podman login --tls-verify=false {host}",
        ]
    lines += [
        "",
        "Then",
        f"  docker login {host}",
        f"  docker tag IMAGE {host}/IMAGE && docker push {host}/IMAGE",
    ]
    return "\n".join(lines)


def _trust(url: str, host: str, certificate: str) -> list[str]:
    folder = f"certs.d/{host}"
    return [
        "On each client, once (compare the fingerprint, or copy the file by a way you trust):",
        f"  fetch        curl -fsSk {url}/ca.crt -o ca.crt"
        " && openssl x509 -in ca.crt -noout -fingerprint -sha256",
        f"  docker       sudo install -D ca.crt /etc/docker/{folder}/ca.crt",
        f"  podman       sudo install -D ca.crt /etc/containers/{folder}/ca.crt",
        f"  containerd   sudo install -D ca.crt /etc/containerd/{folder}/ca.crt && echo"
        f' \'[host."{url}"]\\n  ca = "/etc/containerd/{folder}/ca.crt"\' |'
        f" sudo tee /etc/containerd/{folder}/hosts.toml",
        f"  this machine docker reads the same file: sudo install -D {certificate}"
        f" /etc/docker/{folder}/ca.crt",
    ]


def _is_everywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
