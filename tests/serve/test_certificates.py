import os
import socket
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.serve.certificates import Authority, CertificateError, host_names, load
from appliance.serve.pem import locked

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = ["registry.example", "localhost", "127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def write(folder: Path, issued: trustme.LeafCert) -> tuple[Path, Path]:
    for pem in issued.cert_chain_pems:
        pem.write_to_path(folder / "site.crt", append=True)
    issued.private_key_pem.write_to_path(folder / "site.key")
    return folder / "site.crt", folder / "site.key"


# --- loading


def test_a_certificate_tells_about_itself(ca: trustme.CA, tmp_path: Path) -> None:
    certificate, key = write(
        tmp_path, ca.issue_cert("Registry.Example", "*.example", "10.1.2.3", "2001:db8:0::1")
    )
    loaded = load(certificate, key)
    assert loaded.path == certificate
    assert loaded.names == {"registry.example", "*.example"}
    assert loaded.addresses == {"10.1.2.3", "2001:db8::1"}
    assert loaded.chain == ()
    assert loaded.not_before.tzinfo is loaded.not_after.tzinfo is UTC
    assert loaded.warnings(NOW) == ()
    assert loaded == load(certificate, key)
    assert "key=" not in repr(loaded)
    shown = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert shown.strip().rpartition("=")[2] == loaded.fingerprint


def test_a_chain_keeps_its_order(ca: trustme.CA, tmp_path: Path) -> None:
    below = ca.create_child_ca()
    certificate, key = write(tmp_path, below.create_child_ca().issue_cert("a.test"))
    loaded = load(certificate, key)
    assert [loaded.leaf, *loaded.chain] == x509.load_pem_x509_certificates(certificate.read_bytes())
    assert len(loaded.chain) == 2


def test_one_file_may_hold_both(ca: trustme.CA, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    ca.issue_cert("a.test").private_key_and_cert_chain_pem.write_to_path(both)
    assert load(both, both).names == {"a.test"}


def test_a_certificate_without_names_is_loaded_with_a_warning(tmp_path: Path) -> None:
    make_self_signed(tmp_path, "-newkey", "rsa:2048")
    loaded = load(tmp_path / "site.crt", tmp_path / "site.key")
    assert loaded.names == loaded.addresses == frozenset()
    (warning,) = loaded.warnings(loaded.not_before)
    assert "no subject alternative names" in warning


@pytest.mark.parametrize(
    "algorithm", ["rsa:2048", "ed25519", "ec -pkeyopt ec_paramgen_curve:P-384"]
)
def test_keys_that_will_do(tmp_path: Path, algorithm: str) -> None:
    make_self_signed(tmp_path, "-newkey", *algorithm.split())
    load(tmp_path / "site.crt", tmp_path / "site.key")


def make_self_signed(folder: Path, *arguments: str) -> None:
    files = ["-out", str(folder / "site.crt"), "-keyout", str(folder / "site.key")]
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=a.test", *arguments, *files],
        check=True,
        capture_output=True,
    )


def test_warnings_about_time(ca: trustme.CA, tmp_path: Path) -> None:
    issued = ca.issue_cert("a.test", not_before=NOW - 10 * DAY, not_after=NOW + 80 * DAY)
    loaded = load(*write(tmp_path, issued))
    assert loaded.warnings(NOW) == loaded.warnings(NOW + 65 * DAY) == ()
    (early,) = loaded.warnings(NOW - 11 * DAY)
    assert early.endswith("is not valid before 2026-04-24 12:00 UTC; check this machine's clock")
    (soon,) = loaded.warnings(NOW + 67 * DAY)
    assert soon.endswith("site.crt expires on 2026-07-23; renew it")
    (late,) = loaded.warnings(NOW + 81 * DAY)
    assert late.endswith("site.crt expired on 2026-07-23 and clients refuse it; renew it")


def test_a_short_lived_certificate_is_no_cause_for_warning(ca: trustme.CA, tmp_path: Path) -> None:
    issued = ca.issue_cert("a.test", not_before=NOW - DAY, not_after=NOW + 5 * DAY)
    loaded = load(*write(tmp_path, issued))
    assert loaded.warnings(NOW) == ()
    assert len(loaded.warnings(NOW + 4.5 * DAY)) == 1


# --- faults, one sentence each


def pem_of(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def remove_certificate(certificate: Path, _: Path) -> None:
    certificate.unlink()


def remove_key(_: Path, key: Path) -> None:
    key.unlink()


def make_a_folder(certificate: Path, _: Path) -> None:
    certificate.unlink()
    certificate.mkdir()


def store_der(certificate: Path, _: Path) -> None:
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    certificate.write_bytes(leaf.public_bytes(Encoding.DER))


def empty_certificate(certificate: Path, _: Path) -> None:
    certificate.write_bytes(b"")


def truncate(certificate: Path, _: Path) -> None:
    certificate.write_bytes(certificate.read_bytes()[:300] + b"\n-----END CERTIFICATE-----\n")


def exchange(certificate: Path, key: Path) -> None:
    content = certificate.read_bytes()
    certificate.write_bytes(key.read_bytes())
    key.write_bytes(content)


def give_no_key(certificate: Path, key: Path) -> None:
    key.write_bytes(certificate.read_bytes())


def give_another_key(_: Path, key: Path) -> None:
    key.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))


def protect(_: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(pem_of(private, BestAvailableEncryption(b"secret")))


def weaken(_: Path, key: Path) -> None:
    key.write_bytes(pem_of(rsa.generate_private_key(65537, 1024)))  # noqa: S505


def use_rare_algorithm(_: Path, key: Path) -> None:
    key.write_bytes(pem_of(ed448.Ed448PrivateKey.generate()))


def use_odd_curve(_: Path, key: Path) -> None:
    key.write_bytes(pem_of(ec.generate_private_key(ec.SECP256K1())))


def turn_the_chain_round(certificate: Path, _: Path) -> None:
    chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    certificate.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in reversed(chain)))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (remove_certificate, "{crt} does not exist; put the certificate there or correct the path"),
        (remove_key, "{key} does not exist; put the private key there or correct the path"),
        (make_a_folder, "{crt} cannot be read (Is a directory); make it a file that holds"),
        (store_der, "{crt} is not a certificate in PEM format; convert it, for example with: open"),
        (empty_certificate, "{crt} is not a certificate in PEM format; "),
        (truncate, "{crt} is damaged ("),
        (exchange, "{crt} holds a private key and no certificate; check that the certificate and"),
        (give_no_key, "{key} is not a private key in PEM format; copy the certificate's key"),
        (give_another_key, "{key} does not belong to {crt}; give the key with which"),
        (protect, "{key} is protected by a passphrase; store the key without one, for example"),
        (weaken, "{key} holds a private key that TLS clients do not accept; request a certificate"),
        (use_rare_algorithm, "{key} holds a private key that TLS clients do not accept; "),
        (use_odd_curve, "{key} holds a private key that TLS clients do not accept; "),
        (turn_the_chain_round, "{crt} does not begin with the certificate that {key} belongs to; "),
    ],
)
def test_each_fault_is_a_sentence_of_its_own(
    ca: trustme.CA, tmp_path: Path, spoil: Callable[[Path, Path], None], sentence: str
) -> None:
    certificate, key = write(tmp_path, ca.create_child_ca().issue_cert("a.test"))
    spoil(certificate, key)
    with pytest.raises(CertificateError) as failure:
        load(certificate, key)
    assert str(failure.value).startswith(sentence.format(crt=certificate, key=key))
    assert "\n" not in str(failure.value)


# --- our own authority


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "tls"
    made = Authority.open(folder, now=NOW)
    assert made.certificate_path == folder / "ca.crt"
    assert made.certificate_path.read_bytes() == made.pem
    again = Authority.open(folder, now=NOW + 1000 * DAY)
    assert again.fingerprint == made.fingerprint
    assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "ca.key"]
    assert Authority.open(tmp_path / "other", now=NOW).fingerprint != made.fingerprint


def test_the_authority_is_fit_for_its_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box-7")
    Authority.open(tmp_path, now=NOW)
    root = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    assert root.subject.rfc4514_string().startswith("CN=Registry CA box-7 ")
    assert root.not_valid_before_utc == NOW - DAY
    assert root.not_valid_after_utc == NOW + 3652 * DAY
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


@pytest.mark.parametrize("host", ["x" * 63 + ".example", "(none)", "b\udcfcro", "büro", ""])
def test_no_host_name_is_too_odd_for_an_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    Authority.open(tmp_path, now=NOW)


def test_the_certificate_passes_the_strictest_check(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.open(tmp_path, now=now)
    authority.server_certificate(NAMES, now=now)
    files = ["-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "server.crt")]
    for expected in (["-verify_hostname", "registry.example"], ["-verify_ip", "::1"]):
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", *expected, *files],
            check=True,
            capture_output=True,
        )


def test_the_certificate_says_what_was_asked(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, now=NOW)
    issued = authority.server_certificate([*NAMES, "localhost", "[2001:DB8::1]"], now=NOW)
    assert issued.path == tmp_path / "server.crt"
    assert issued.names == {"registry.example", "localhost"}
    assert issued.addresses == {"127.0.0.1", "::1", "2001:db8::1"}
    assert issued.not_before == NOW - DAY
    assert issued.not_after == NOW + 90 * DAY
    assert [c.public_bytes(Encoding.PEM) for c in issued.chain] == [authority.pem]
    extensions = issued.leaf.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature


def test_names_take_many_forms(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, now=NOW)
    long = ".".join(["x" * 60] * 3)
    issued = authority.server_certificate([long, "Büro.example", "*.Example.", "a_b"], now=NOW)
    assert issued.names == {long, "xn--bro-hoa.example", "*.example", "a_b"}
    for wrong in (["two words"], ["http://x"], ["-x"], [""], ["x" * 64], ["ü" * 64], ["a..b"], []):
        with pytest.raises(CertificateError, match="no certificate can be issued"):
            authority.server_certificate(wrong, now=NOW)


@pytest.mark.parametrize(
    ("names", "later", "kept"),
    [
        (NAMES, 0 * DAY, True),
        (NAMES[:2], 0 * DAY, True),
        ([*NAMES, "new.example"], 0 * DAY, False),
        ([*NAMES, "10.0.0.1"], 0 * DAY, False),
        (NAMES, 59 * DAY, True),
        (NAMES, 60 * DAY, False),
        (NAMES, 200 * DAY, False),
        (NAMES, -2 * DAY, False),  # the clock was wrong when it was issued
    ],
)
def test_when_a_certificate_is_renewed(
    tmp_path: Path, names: list[str], later: timedelta, kept: bool
) -> None:
    authority = Authority.open(tmp_path, now=NOW)
    first = authority.server_certificate(NAMES, now=NOW)
    second = Authority.open(tmp_path, now=NOW).server_certificate(names, now=NOW + later)
    assert (second.fingerprint == first.fingerprint) is kept
    assert set(names) <= second.names | second.addresses
    assert second.not_before <= NOW + later < second.not_after


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, now=NOW)
    issued = authority.server_certificate(NAMES, now=NOW + 3600 * DAY)
    assert issued.not_after == NOW + 3652 * DAY


def test_another_authority_issues_anew(tmp_path: Path) -> None:
    first = Authority.open(tmp_path, now=NOW).server_certificate(NAMES, now=NOW)
    (tmp_path / "ca.crt").unlink()
    (tmp_path / "ca.key").unlink()
    second = Authority.open(tmp_path, now=NOW).server_certificate(NAMES, now=NOW)
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize("spoilt", ["server.crt", "server.key"])
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_damaged_server_pair_is_issued_anew(
    tmp_path: Path, spoilt: str, content: bytes | None
) -> None:
    authority = Authority.open(tmp_path, now=NOW)
    first = authority.server_certificate(NAMES, now=NOW)
    (tmp_path / spoilt).unlink()
    if content is not None:
        (tmp_path / spoilt).write_bytes(content)
    second = authority.server_certificate(NAMES, now=NOW)
    assert second.fingerprint != first.fingerprint
    assert load(tmp_path / "server.crt", tmp_path / "server.key") == second


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o077):
        folder = tmp_path / f"{umask:o}"
        before = os.umask(umask)
        try:
            Authority.open(folder, now=NOW).server_certificate(NAMES, now=NOW)
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600}


def test_keys_are_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int, int]] = []
    real = os.open

    def spy(path: os.PathLike[str] | str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            opened.append((os.fspath(path), flags, mode))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", spy)
    Authority.open(tmp_path, now=NOW).server_certificate(NAMES, now=NOW)
    keys = [(flags, mode) for path, flags, mode in opened if ".key" in path]
    assert len(keys) == 2
    assert all(flags & os.O_EXCL and mode == 0o600 for flags, mode in keys)


class Crash(BaseException):
    pass


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the power fail at the n-th rename."""

    def arm(nth: int) -> None:
        renames = 0

        def counted(real: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
            def rename(source: Path, target: Path) -> Path:
                nonlocal renames
                renames += 1
                if renames == nth:
                    monkeypatch.undo()
                    raise Crash
                return real(source, target)

            return rename

        for verb in ("rename", "replace"):
            monkeypatch.setattr(Path, verb, counted(getattr(Path, verb)))

    return arm


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_crash_while_the_authority_is_made(
    tmp_path: Path, crash_at: Callable[[int], None], nth: int
) -> None:
    crash_at(nth)
    with pytest.raises(Crash):
        Authority.open(tmp_path, now=NOW)
    (tmp_path / ".ca.key.0123456789abcdef").write_bytes(b"left behind")
    Authority.open(tmp_path, now=NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_crash_while_a_certificate_is_renewed(
    tmp_path: Path, crash_at: Callable[[int], None], nth: int
) -> None:
    authority = Authority.open(tmp_path, now=NOW)
    first = authority.server_certificate(NAMES, now=NOW)
    crash_at(nth)
    with pytest.raises(Crash):
        authority.server_certificate([*NAMES, "new.example"], now=NOW)
    healed = authority.server_certificate(NAMES, now=NOW)
    # Up to the key's rename the old pair stands, from then on the new one.
    assert (healed == first) is (nth < 3)
    assert ("new.example" in healed.names) is (nth == 3)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("missing", ["ca.crt", "ca.key"])
def test_half_an_authority_is_refused(tmp_path: Path, missing: str) -> None:
    Authority.open(tmp_path, now=NOW)
    (tmp_path / missing).unlink()
    (left,) = tmp_path.iterdir()
    with pytest.raises(CertificateError) as failure:
        Authority.open(tmp_path, now=NOW)
    assert str(failure.value).startswith(f"{left} is there without its other half; restore the")
    assert list(tmp_path.iterdir()) == [left]


def test_a_damaged_authority_is_refused(tmp_path: Path, ca: trustme.CA) -> None:
    Authority.open(tmp_path / "good", now=NOW)
    good = (tmp_path / "good" / "ca.crt").read_bytes(), (tmp_path / "good" / "ca.key").read_bytes()
    issued = ca.issue_cert("a.test")
    leaf = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
    folder = tmp_path / "tls"
    folder.mkdir()
    for (certificate, key), fault in {
        (b"garbage", good[1]): "ca.crt is not a certificate in PEM format",
        (good[0], b""): "ca.key is not a private key in PEM format",
        (good[0], leaf[1]): "ca.key does not belong to",
        leaf: "ca.crt is not the certificate of an authority",
    }.items():
        (folder / "ca.crt").write_bytes(certificate)
        (folder / "ca.key").write_bytes(key)
        with pytest.raises(CertificateError) as failure:
            Authority.open(folder, now=NOW)
        assert f"{folder}/{fault}" in str(failure.value)
        assert str(failure.value).endswith("which every client will have to trust anew")
        assert (folder / "ca.crt").read_bytes() == certificate


def test_an_authority_that_expired_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path, now=NOW)
    with pytest.raises(CertificateError, match=r"ca\.crt expired on 2036-05-03; restore"):
        Authority.open(tmp_path, now=NOW + 3653 * DAY)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CertificateError, match=r"file/tls cannot be used \(Not a directory\); let"):
        Authority.open(tmp_path / "file" / "tls", now=NOW)


def test_an_authority_of_another_make_may_be_put_there(tmp_path: Path) -> None:
    make_self_signed(tmp_path, "-newkey", "ed25519")
    (tmp_path / "site.crt").rename(tmp_path / "ca.crt")
    (tmp_path / "site.key").rename(tmp_path / "ca.key")
    now = datetime.now(UTC)
    authority = Authority.open(tmp_path, now=now)
    issued = authority.server_certificate(NAMES, now=now)
    assert isinstance(load(tmp_path / "ca.crt", tmp_path / "ca.key").key, ed25519.Ed25519PrivateKey)
    assert authority.server_certificate(NAMES, now=now) == issued


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    Authority.open(tmp_path, now=NOW)
    program = (
        "import fcntl, os, sys; d = os.open(sys.argv[1], os.O_RDONLY);"
        " fcntl.flock(d, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    command = ["python3", "-c", program, str(tmp_path)]
    with locked(tmp_path):
        assert (
            b"BlockingIOError" in subprocess.run(command, capture_output=True, check=False).stderr
        )
    subprocess.run(command, check=True)


# --- host names


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/self/net").mkdir(parents=True)
    return tmp_path


HOSTS = """\
# 10.9.9.9 box not.this.one
127.0.0.1 localhost
127.0.1.1\tBox.Example.org Box  # the full name
10.0.0.9 other
::1 localhost ip6-localhost

bogus
10.0.0.1 box box_2 bad! *.
"""

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.20
           /32 host LOCAL
        |-- 192.0.2.3
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
     |-- 169.254.7.7
        /32 host LOCAL
Local:
  +-- 0.0.0.0/0 3 0 5
        |-- 192.0.2.20
           /32 host LOCAL
"""

IF_INET6 = """\
20010db8000000000000000000000007 02 40 00 80     eth0
20010db800000000a1b2c3d4e5f60718 02 40 00 01     eth0
20010db8000000000000000000000009 02 40 00 c8     eth0
fe800000000000000042acfffe110002 02 40 20 80     eth0
fd000000000000000000000000000002 04 40 00 82     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


def test_this_machine_has_names_and_addresses(root: Path) -> None:
    (root / "etc/hosts").write_text(HOSTS)
    (root / "proc/self/net/fib_trie").write_text(FIB_TRIE)
    (root / "proc/self/net/if_inet6").write_text(IF_INET6)
    assert host_names(root=root) == (
        "box",
        "box.example.org",
        "box_2",
        "localhost",
        "127.0.0.1",
        "::1",
        "192.0.2.3",
        "192.0.2.20",
        "2001:db8::7",
        "fd00::2",
    )


def test_tables_that_are_missing_are_done_without(root: Path) -> None:
    assert host_names(root=root) == ("box", "localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["(none)", "b\udcfcro", "büro", "", "two words", "localhost"])
def test_odd_host_names_are_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    (root / "etc/hosts").write_bytes("10.0.0.1 büro b".encode("latin-1"))
    assert host_names(root=root) == ("localhost", "127.0.0.1", "::1")


def test_the_names_of_the_machine_at_hand_can_be_certified(tmp_path: Path) -> None:
    names = host_names()
    assert names == host_names()
    assert len(names) == len(set(names))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pass  # no way out of this machine
        else:
            assert probe.getsockname()[0] in names
    issued = Authority.open(tmp_path, now=NOW).server_certificate(names, now=NOW)
    assert issued.names | issued.addresses == set(names)
