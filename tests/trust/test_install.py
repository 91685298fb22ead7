from pathlib import Path

import pytest
import trustme
from cryptography import x509

from appliance.trust.authority import Offered, TrustError
from appliance.trust.install import Done, install, remove
from appliance.trust.place import Place
from appliance.trust.shelves import CLIENTS, believed

PLACE = Place.parse("registry.example:5000")
NAME = "registry.example:5000"


@pytest.fixture(scope="module")
def offered() -> Offered:
    return Offered(x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes()))


def put(root: Path, offered: Offered, *clients: str, system: bool = False) -> Done:
    return install(PLACE, offered, clients or CLIENTS, system=system, root=root)


def take(root: Path, *, system: bool = False) -> Done:
    return remove(PLACE, CLIENTS, system=system, root=root)


def files(root: Path) -> dict[str, Path]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path for path in found}


def test_each_client_finds_it_and_it_goes_again(tmp_path: Path, offered: Offered) -> None:
    (tmp_path / "usr/local/share/ca-certificates").mkdir(parents=True)
    told = put(tmp_path, offered, system=True)
    assert f"Inside of {tmp_path}, run: update-ca-certificates" in told.left
    found = files(tmp_path)
    assert sorted(found) == [
        f"etc/containerd/certs.d/{NAME}/ca.crt",
        f"etc/containerd/certs.d/{NAME}/hosts.toml",
        f"etc/containers/certs.d/{NAME}/ca.crt",
        f"etc/docker/certs.d/{NAME}/ca.crt",
        "usr/local/share/ca-certificates/registry-registry.example-5000.crt",
    ]
    assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o644}
    for client in CLIENTS:
        assert believed(client, PLACE, tmp_path).certificates == (offered.certificate,)
    assert len(put(tmp_path, offered, system=True).done) == 5  # once more does the same
    assert files(tmp_path).keys() == found.keys()
    take(tmp_path, system=True)
    assert not files(tmp_path)
    assert not (tmp_path / "etc/docker/certs.d" / NAME).exists()
    assert take(tmp_path) == Done()


def test_only_the_clients_that_are_named_are_told(tmp_path: Path, offered: Offered) -> None:
    put(tmp_path, offered, "podman")
    assert sorted(files(tmp_path)) == [f"etc/containers/certs.d/{NAME}/ca.crt"]


def test_containerd_is_pointed_to_a_path_of_its_own_machine(
    tmp_path: Path, offered: Offered
) -> None:
    told = put(tmp_path, offered, "containerd")
    hosts = files(tmp_path)[f"etc/containerd/certs.d/{NAME}/hosts.toml"].read_text()
    assert f'ca = "/etc/containerd/certs.d/{NAME}/ca.crt"' in hosts
    assert any("config_path" in sentence for sentence in told.left)
    settings = tmp_path / "etc/containerd/config.toml"
    (sentence,) = told.left
    assert "version = 2" in sentence
    for part in ("io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"):
        assert f'[plugins."{part}".registry]' in sentence
        settings.write_text(
            f'[plugins."{part}".registry]\nconfig_path = "/etc/containerd/certs.d"\n'
        )
        assert put(tmp_path, offered, "containerd").left == []


def test_a_hosts_file_of_others_stays_and_is_told_of(tmp_path: Path, offered: Offered) -> None:
    folder = tmp_path / "etc/containerd/certs.d" / NAME
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text('server = "https://elsewhere"\n')
    told = put(tmp_path, offered, "containerd")
    assert f"{folder}/hosts.toml is not of registry trust; add to it:" in told.left[0]
    assert f'ca = "/etc/containerd/certs.d/{NAME}/ca.crt"' in told.left[0]
    assert take(tmp_path).left == [f"{folder}/hosts.toml is not of registry trust and stays."]
    assert (folder / "hosts.toml").read_text() == 'server = "https://elsewhere"\n'
    assert [path.name for path in folder.iterdir()] == ["hosts.toml"]


def test_a_certificate_of_others_stays(tmp_path: Path, offered: Offered) -> None:
    path = tmp_path / "etc/docker/certs.d" / NAME / "ca.crt"
    path.parent.mkdir(parents=True)
    path.write_bytes(before := trustme.CA().cert_pem.bytes())
    with pytest.raises(TrustError, match="another certificate, which registry trust did not write"):
        put(tmp_path, offered, "docker")
    assert path.read_bytes() == before
    path.write_bytes(offered.pem)
    assert put(tmp_path, offered, "docker").done == [f"{path} has it already"]
    assert path.read_bytes() == offered.pem
    assert take(tmp_path).left == [f"{path} is not of registry trust and stays."]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path, offered: Offered) -> None:
    (tmp_path / "etc").write_text("not a folder")
    with pytest.raises(TrustError, match=r"cannot be written \(Not a directory\)"):
        put(tmp_path, offered)


def test_podman_looks_where_docker_does_unless_it_has_a_folder(
    tmp_path: Path, offered: Offered
) -> None:
    put(tmp_path, offered, "docker")
    assert believed("podman", PLACE, tmp_path).certificates == (offered.certificate,)
    (tmp_path / "etc/containers/certs.d" / NAME).mkdir(parents=True)
    assert believed("podman", PLACE, tmp_path).certificates == ()


@pytest.mark.parametrize("link", ["etc", "etc/docker", f"etc/docker/certs.d/{NAME}"])
def test_nothing_is_touched_where_a_link_leads_out_of_the_root(
    tmp_path: Path, offered: Offered, link: str
) -> None:
    root, host = tmp_path / "root", tmp_path / "host"
    root.mkdir()
    put(host, offered, "docker")
    before = files(host)
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(host / link)
    with pytest.raises(TrustError, match=f"leads out of {root}, to {host}"):
        put(root, offered)
    with pytest.raises(TrustError, match=f"leads out of {root}, to {host}"):
        take(root)
    (host / f"etc/docker/certs.d/{NAME}/ca.crt").unlink()
    with pytest.raises(TrustError, match="leads out"):
        put(root, offered, "docker")
    with pytest.raises(TrustError, match="leads out"):
        take(root)
    assert files(host).keys() < before.keys()
    assert (host / f"etc/docker/certs.d/{NAME}").is_dir()


def test_a_file_that_is_a_link_out_of_the_root_is_not_written(
    tmp_path: Path, offered: Offered
) -> None:
    root, host = tmp_path / "root", tmp_path / "ca.crt"
    shelf = root / "etc/docker/certs.d" / NAME
    shelf.mkdir(parents=True)
    (shelf / "ca.crt").symlink_to(host)
    with pytest.raises(TrustError, match="leads out"):
        put(root, offered, "docker")
    assert not host.exists()


def test_a_link_that_stays_below_the_root_is_followed(tmp_path: Path, offered: Offered) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "data/docker").mkdir(parents=True)
    (tmp_path / "etc/docker").symlink_to("../data/docker")
    put(tmp_path, offered, "docker")
    assert (tmp_path / "data/docker/certs.d" / NAME / "ca.crt").exists()
    take(tmp_path)
    assert not (tmp_path / "data/docker/certs.d" / NAME).exists()


def test_the_system_below_a_root_is_known_by_what_is_there(
    tmp_path: Path, offered: Offered, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrustError, match="install the package ca-certificates there"):
        put(tmp_path, offered, "docker", system=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "etc/pki/ca-trust/source/anchors").mkdir(parents=True)
    told = put(tmp_path, offered, "docker", system=True)
    assert f"Inside of {tmp_path}, run: update-ca-trust" in told.left
