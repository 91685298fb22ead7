"""What people install the registry from: each kind is built, installed where it belongs, and run there."""

import os
import shutil
import signal
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance import __version__
from tests.system import debian, images
from tests.system.daemon import PASSWORD, USER, Daemon
from tests.system.debian import ROOT
from tests.system.tools import attempt, environment, eventually, run
from tests.unprivileged import NOBODY

_BUILD = ROOT / "packaging" / "build"
_SUFFIX = "+test1"
_AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


@pytest.fixture(scope="module")
def built(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The other kinds, made side by side."""
    folder = tmp_path_factory.mktemp("built")
    kinds: dict[str, tuple[str, ...]] = {
        "onefile": (),
        "rpm": ("--package", str(deb)),
        "wheel": ("--version-suffix", _SUFFIX),
    }
    with ThreadPoolExecutor() as threads:
        jobs = {
            kind: threads.submit(debian.build, kind, folder / kind, *options)
            for kind, options in kinds.items()
        }
        return {kind: job.result() for kind, job in jobs.items()}


@pytest.fixture(scope="module")
def system(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh Debian."""
    root = debian.unpacked(rootfs, tmp_path_factory.mktemp("system") / "root")
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def trixie(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """A fresh Debian 13, whose Python is another one than that of Debian 12."""
    kept = pytestconfig.cache
    folder = tmp_path_factory.mktemp("trixie")
    included = "systemd,systemd-sysv,dbus,python3,ca-certificates,curl,debconf"
    place = folder if kept is None else kept.mkdir("debian")
    root = debian.unpacked(debian.debian_root(place, "trixie", included), folder / "root")
    yield root
    shutil.rmtree(root)


# -- the command that builds


def test_the_command_tells_what_it_builds() -> None:
    told = run(_BUILD, "--help")
    assert {line.split()[0] for line in told.splitlines() if line.startswith("  ")} >= {
        *("wheel", "deb", "rpm", "onefile", "image")
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "what to build is not said: wheel, deb, rpm, onefile or image, and where."),
        (("snap", "."), "snap is nothing that can be built; choose wheel, deb, rpm, onefile or"),
        (("deb",), "where to put the deb is not said; name a folder."),
        (("deb", "/proc/none"), "/proc/none cannot be written; name another folder."),
        (("deb", ".", "--faster"), "--faster is no option; packaging/build --help lists them."),
        (("deb", ".", "--version-suffix", "/x"), "--version-suffix /x is no suffix; it is + and"),
        (("image", ".", "--package", "none.deb"), "none.deb cannot be read; name a package for"),
    ],
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    done = attempt(_BUILD, *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(".")
    assert line.startswith(f"packaging/build: {sentence}")


def test_a_tool_that_is_missing_and_cannot_be_installed_is_named(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "readlink", "mkdir", "mktemp", "rm", "id"):
        (programs / name).symlink_to(shutil.which(name) or "")
    done = attempt(_BUILD, "rpm", tmp_path / "target", env={"PATH": str(programs)})
    assert done.returncode == 2
    assert done.stderr == (
        "packaging/build: rpmbuild is missing; install it (on Debian: apt install rpm).\n"
    )


# -- the package for Debian


def test_the_package_for_debian_is_small_and_lintian_finds_nothing(deb: Path) -> None:
    architecture = run("dpkg", "--print-architecture").strip()
    assert deb.name == f"registry-appliance_{__version__}_{architecture}.deb"
    assert deb.stat().st_size < 12_000_000
    done = attempt("lintian", "--fail-on=error,warning", deb, within=120)
    assert (done.returncode, done.stdout) == (0, "")
    needs = run("dpkg-deb", "--field", deb, "Depends")
    assert "python3 (>= 3.11~), python3 (<< 3.15)" in needs


def test_the_package_for_debian_runs_and_stays_as_it_was_installed(system: Path, deb: Path) -> None:
    said = debian.inside(
        system,
        """
        export DEBIAN_FRONTEND=noninteractive
        dpkg --install /outside/*.deb 2>&1
        touch /run/installed
        dpkg --verify
        stat --format='data %A %U:%G' /var/lib/registry
        echo "user $(getent passwd registry | cut -d: -f6,7)"
        registry --version
        registry check
        registry serve >/run/banner 2>&1 &
        for _ in $(seq 100); do
          if curl -fsk https://localhost/readyz; then break; fi
          sleep 0.1
        done
        registry info | grep 'first login'
        registry user add alice --generate >/dev/null 2>&1
        registry ls
        kill $!
        wait $!
        dpkg --verify
        find / -xdev -newer /run/installed -type f -printf 'wrote %p\\n' | cut -d/ -f1-4 | sort -u
        """,
        f"--bind-ro={deb.parent}:/outside",
    )
    lines = said.splitlines()
    assert f"registry, version {__version__}" in lines
    assert "registry: the first password of admin will be in" in said
    assert "data drwx------ registry:registry" in lines
    assert "user /var/lib/registry:/usr/sbin/nologin" in lines
    assert "/etc/registry.toml: no faults." in lines
    assert "admin, with the password in /var/lib/registry/admin-password" in said
    assert [line for line in lines if line.startswith("??")] == []
    written = {line for line in lines if line.startswith("wrote ")}
    assert written == {"wrote /etc/registry.htpasswd", "wrote /var/lib/registry"}


def test_the_same_package_serves_the_next_release_with_its_other_python(
    trixie: Path, deb: Path, tmp_path: Path
) -> None:
    shutil.copy(deb, tmp_path / "registry.deb")
    said = debian.booted(
        trixie,
        tmp_path,
        """
        export DEBIAN_FRONTEND=noninteractive HOME=/root
        dpkg --install /outside/registry.deb
        echo 'bob:$apr1$EkYfCZ3X$ScT9lR5OZzNSjbJLNuQcJ0' >>/var/lib/registry/htpasswd
        answers() { curl -fsk https://localhost/readyz >/dev/null; }
        for _ in $(seq 100); do if answers; then break; fi; sleep 0.1; done
        answers
        before=$(systemctl show --property=MainPID --value registry)
        password=$(cat /var/lib/registry/admin-password)
        curl -fsSk --user "admin:$password" https://localhost/v2/ | grep '^{}$'
        /usr/lib/registry-appliance/bin/python3 -I -c 'import appliance.serve.http2, passlib.hash, zstandard, httptools'
        [ "$(curl -sk --user bob:wrong --write-out '%{http_code}' -o /dev/null https://localhost/v2/)" = 401 ]
        /usr/lib/registry-appliance/bin/handover
        [ "$before" != "$(systemctl show --property=MainPID --value registry)" ]
        answers
        find /usr/lib/registry-appliance -name '*.pyc' | sed 's/.*\\.cpython/compiled for/' | sort -u
        dpkg --verify
        dpkg --remove registry-appliance
        if [ -e /usr/lib/registry-appliance ]; then find /usr/lib/registry-appliance; exit 1; fi
        """,
    )
    lines = said.splitlines()
    compiled = {line for line in lines if line.startswith("compiled for")}
    ours = run("/usr/bin/python3", "-c", "import sys; print(sys.implementation.cache_tag)")
    tags = {ours.strip().removeprefix("cpython"), "-313"}
    assert compiled == {f"compiled for{tag}.pyc" for tag in tags}
    assert [line for line in lines if line.startswith("??")] == []


def test_data_stays_unless_a_purge_is_told_otherwise(system: Path, deb: Path) -> None:
    said = debian.inside(
        system,
        """
        export DEBIAN_FRONTEND=noninteractive
        look() { for path in /etc/registry.toml /var/lib/registry/blobs /etc/registry.htpasswd; do
          if [ -e $path ]; then echo "$1 $path"; fi
        done; }
        again() { dpkg --install /outside/*.deb >/dev/null 2>&1; }
        again
        mkdir -p /var/lib/registry/blobs/sha256
        echo x >/etc/registry.htpasswd
        dpkg --remove registry-appliance >/dev/null 2>&1
        look removed
        again
        dpkg --purge registry-appliance >/dev/null 2>&1
        look purged
        again
        echo registry-appliance registry-appliance/remove-data boolean true | debconf-set-selections
        dpkg --purge registry-appliance >/dev/null 2>&1
        look asked
        find /usr/lib/registry-appliance /usr/bin/registry 2>/dev/null || true
        """,
        f"--bind-ro={deb.parent}:/outside",
    )
    assert said.splitlines() == [
        "removed /etc/registry.toml",
        "removed /var/lib/registry/blobs",
        "removed /etc/registry.htpasswd",
        "purged /var/lib/registry/blobs",
        "purged /etc/registry.htpasswd",
    ]


# -- the package for rpm


def test_the_package_for_rpm_installs_into_a_root_and_stays_as_it_was(
    system: Path, built: dict[str, Path]
) -> None:
    package = built["rpm"]
    assert package.stat().st_size < 12_000_000
    needs = run("rpm", "-qp", "--requires", package).splitlines()
    assert {"python3 >= 3.11", "python3 < 3.15"} <= set(needs)
    rpm = ("rpm", "--root", system)
    run(*rpm, "--install", "--nodeps", "--noscripts", package)
    try:
        told = debian.inside(system, "systemd-sysusers registry.conf 2>&1; registry --version")
        assert told.splitlines()[-1] == f"registry, version {__version__}"
        assert run(*rpm, "--verify", "--nodeps", "registry-appliance") == ""
        assert run(*rpm, "--query", "--configfiles", "registry-appliance").split() == [
            "/etc/registry.toml"
        ]
    finally:
        run(*rpm, "--erase", "--nodeps", "--noscripts", "registry-appliance")
    assert not (system / "usr" / "bin" / "registry").exists()


# -- the wheel, and setup


def test_a_wheel_makes_a_service_out_of_a_virtual_environment(
    system: Path, wheels: Path, tmp_path: Path
) -> None:
    said = debian.booted(
        system,
        tmp_path / "booted",
        """
        python3 -m venv /run/tools
        install() {
          python3 -m venv --without-pip "$1"
          /run/tools/bin/pip --quiet --disable-pip-version-check --python "$1/bin/python" install \
            --no-compile --no-index --find-links /wheels registry-appliance
        }
        answers() { for _ in $(seq 100); do
          if curl -fsk https://localhost/readyz; then return; fi
          sleep 0.1
        done; false; }

        install /opt/registry
        registry=/opt/registry/bin/registry
        $registry setup --dry-run
        test ! -e /etc/registry.toml
        $registry setup
        $registry setup
        systemctl enable --now registry
        answers
        systemctl show --property=ExecStart registry | grep -o 'path=[^ ]*'
        stat --format='data %A %U' /var/lib/registry
        grep -c . /etc/registry.toml
        setpriv --reuid=nobody --clear-groups $registry setup || echo "not root: $?"
        $registry setup --remove
        systemctl is-active registry || true
        find /etc -name '*registry*'
        $registry setup --remove

        install /root/registry
        /root/registry/bin/registry setup || echo "hidden: $?"
        """,
        f"--bind-ro={wheels}:/wheels",
    )
    assert "/etc/systemd/system/registry.service: to be made" in said
    assert "/etc/systemd/system/registry.service: made" in said
    assert "/etc/systemd/system/registry.service: is as it should be" in said
    assert "/etc/registry.toml: made" in said
    assert "path=/opt/registry/bin/registry" in said
    assert "data drwx------ registry" in said
    assert "registry: only root may set up the system; use sudo" in said
    assert "not root: 2" in said
    *_, after = said.partition("+ systemctl is-active registry")
    assert "/etc/registry.toml" in after
    assert "\n/etc/systemd/system/registry" not in after.partition("+ find")[2]
    assert "There is nothing that registry setup has made." in after
    assert "is below /root, which the service does not see (ProtectHome= of its unit)" in after
    assert "hidden: 2" in after


def test_a_wheel_below_usr_local_is_a_service_at_once(
    system: Path, wheels: Path, tmp_path: Path
) -> None:
    said = debian.booted(
        system,
        tmp_path / "booted",
        """
        python3 -m venv /run/tools
        /run/tools/bin/pip --quiet --disable-pip-version-check --python /usr/bin/python3 install \
          --no-compile --break-system-packages --no-index --find-links /wheels registry-appliance
        registry --version
        systemctl start registry
        for _ in $(seq 100); do
          if curl -fsk https://localhost/readyz; then break; fi
          sleep 0.1
        done
        registry info
        systemctl show --property=FragmentPath registry
        ls /usr/local/share/man/man1 /usr/local/share/man/man5
        """,
        f"--bind-ro={wheels}:/wheels",
    )
    assert f"registry, version {__version__}" in said
    assert "first login  admin, with the password in /var/lib/registry/admin-password" in said
    assert "FragmentPath=/usr/local/lib/systemd/system/registry.service" in said
    assert "registry.1" in said
    assert "registry.toml.5" in said


# -- manual pages and completions


@pytest.fixture(scope="module")
def shared(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel has for folders named share."""
    folder = tmp_path_factory.mktemp("shared")
    with zipfile.ZipFile(built["wheel"]) as archive:
        archive.extractall(folder)
    (share,) = folder.glob("*.data/data/share")
    return share


@pytest.mark.parametrize("page", ["man1/registry.1", "man5/registry.toml.5"])
def test_manual_pages_are_free_of_faults(shared: Path, page: str) -> None:
    path = shared / "man" / page
    assert run("mandoc", "-T", "lint", "-W", "warning", path) == ""
    done = attempt("groff", "-man", "-ww", "-Tutf8", path)
    assert (done.returncode, done.stderr) == (0, "")


def test_manual_pages_tell_all_there_is(shared: Path) -> None:
    def shown(page: str) -> str:
        text = run("mandoc", "-T", "ascii", "-O", "width=200", shared / "man" / page)
        return run("col", "-b", given=text)

    commands = shown("man1/registry.1")
    for words in ("serve", "user add NAME", "access explain ACCOUNT REPOSITORY", "setup"):
        assert f"registry {words}" in commands
    assert "--password-stdin" in commands
    settings = shown("man5/registry.toml.5")
    shipped = tomllib.loads((ROOT / "packaging" / "registry.toml").read_text())
    for table in shipped:
        assert f"[{table}]" in settings
    assert 'listen = ["[::]:443"]' in settings
    assert "While this key is not set, a registry that may not bind 443 goes to 8443." in settings


def test_shells_complete_what_there_is(shared: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    scripts = {
        "bash": shared / "bash-completion" / "completions" / "registry",
        "zsh": shared / "zsh" / "site-functions" / "_registry",
        "fish": shared / "fish" / "vendor_completions.d" / "registry.fish",
    }
    for shell, script in scripts.items():
        run(shell, "-n", script)
    asked = 'COMP_WORDS=(registry us); COMP_CWORD=1; _registry_completion registry; echo "${COMPREPLY[@]}"'
    given = f"source {scripts['bash']}\n{asked}\n"
    assert run("bash", given=given, env=environment(PATH=path)).split() == ["user"]
    fish = ("fish", "--no-config", "-c", f"source {scripts['fish']}; complete -C 'registry und'")
    told = run(*fish, env=environment(PATH=path, HOME=str(shared)))
    assert [line.split("\t")[0] for line in told.splitlines()] == ["undelete"]


# -- the one executable file


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder of an ordinary user's."""
    with tempfile.TemporaryDirectory(prefix="registry-test-") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def test_one_file_serves_an_ordinary_user(built: dict[str, Path], folder: Path) -> None:
    assert built["onefile"].stat().st_size < 30_000_000
    program = folder / "registry"
    shutil.copy(built["onefile"], program)
    assert run(*_AS_NOBODY, program, "--version") == f"registry, version {__version__}\n"
    one = Daemon(folder, settings={"tls": {"alpn": ["h2", "http/1.1"]}}, prefix=_AS_NOBODY)
    one._program = lambda: [str(program)]  # type: ignore[method-assign]
    # What is imported at the first password of this kind, and at the first request of HTTP/2.
    hashed = run("openssl", "passwd", "-apr1", "-stdin", given=PASSWORD).strip()
    one.htpasswd.write_text(f"{USER}:{hashed}\n")
    for path in folder.iterdir():
        os.chown(path, NOBODY, NOBODY)
    try:
        one.start()
        assert one.client().request("GET", "/v2/").status == 200
        layout = images.layout_of(folder / "layout", images.small())
        one.client().push_layout("hello", "1", layout)
        modern = ("curl", "--silent", "--http2", "--cacert", one.ca, "--user", one.login)
        url = f"https://{one.address}/v2/hello/tags/list"
        told = run(*modern, "--write-out", "\n%{http_version} %{http_code}", url)
        assert told == '{"name":"hello","tags":["1"]}\n2 200'
        assert "hello" in one.command("ls").stdout
        assert one.command("verify").returncode == 0
        os.kill(one.pid, signal.SIGUSR2)
        eventually(lambda: "serving on" in one.log(), within=30, what="it says that it serves on")
        assert one.client().request("GET", "/v2/").status == 200
        one.stop()
    finally:
        one.kill()
