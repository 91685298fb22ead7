"""The registry on a whole Debian: installed, started, changed, killed, hung, upgraded, removed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import __version__
from tests.system import debian
from tests.system.images import layout_of, small
from tests.system.tools import run

_SUFFIX = "+test2"
_SLOW_SECONDS = 60
_SLOW_SIZE = 30 << 20

# Asks for the same over and over, each time on a new connection, until it is told that it is enough; then
# tells how often, and how long the slowest answer took.
_ASK = """
import base64, json, pathlib, ssl, sys, threading, time, urllib.request
url, login, least = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = ssl.create_default_context(cafile="/tmp/ca.crt")
headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
took = []
def ask():
    while len(took) < least or not pathlib.Path("/tmp/enough").exists():
        began = time.monotonic()
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30, context=context) as answer:
            assert answer.status == 200 and answer.read()
        took.append(time.monotonic() - began)
        time.sleep(0.02)
threads = [threading.Thread(target=ask) for _ in range(4)]
failed = []
threading.excepthook = lambda told: failed.append(repr(told.exc_value))
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"asked": len(took), "slowest": max(took), "failed": failed}))
"""

_PREPARE = """
export DEBIAN_FRONTEND=noninteractive HOME=/root
client() { nsenter --net=/run/netns/client -- "$@"; }
main_process() { systemctl show --property=MainPID --value registry; }
answers() { curl -fsS --max-time 1 --cacert /tmp/ca.crt https://registry.test/readyz >/dev/null 2>&1; }
wait_for() {  # SECONDS COMMAND...
  tenths=$(($1 * 10)); shift
  until "$@"; do
    tenths=$((tenths - 1)); [ $tenths -gt 0 ] || { echo "not in time: $*"; journalctl -u registry | tail -n 40; exit 1; }
    sleep 0.1
  done
}
is_other() { [ "$(main_process)" != "$1" ] && [ "$(main_process)" != 0 ]; }
names() {
  ip netns add client
  ip link add outer type veth peer name inner netns client
  ip address add 10.9.0.1/30 dev outer
  ip link set outer up
  ip -netns client address add 10.9.0.2/30 dev inner
  ip -netns client link set inner up
  echo '10.9.0.1 registry.test' >>/etc/hosts
}
"""

_USE = """
sed -i 's/^#names = .*/names = ["registry.test"]/' /etc/registry.toml
systemctl reload registry
cp /var/lib/registry/tls/ca.crt /tmp/ca.crt
wait_for 10 answers
[ "$(stat -c %U /proc/$(main_process))" = registry ]
password=$(cat /var/lib/registry/admin-password)
mkdir -p /tmp/certs && cp /tmp/ca.crt /tmp/certs/
client skopeo login --cert-dir /tmp/certs --username admin --password "$password" registry.test
client skopeo copy --dest-cert-dir /tmp/certs oci:/outside/image:latest docker://registry.test/demo/app:v1
client skopeo copy --src-cert-dir /tmp/certs docker://registry.test/demo/app:v1 oci:/tmp/pulled:latest
diff -r /outside/image/blobs /tmp/pulled/blobs
registry ls demo/app
registry info | grep -F 'https://registry.test'
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a booted system finds of ours."""
    folder = tmp_path_factory.mktemp("outside")
    layout_of(folder / "image", small())
    (folder / "ask.py").write_text(_ASK)
    return folder


@pytest.fixture(scope="module")
def upgrade(deb: Path, outside: Path) -> Path:
    """The same package of a higher version, which it tells as well."""
    tree = outside / "tree"
    run("dpkg-deb", "--raw-extract", deb, tree)
    # One folder of packages has a name for each version of Python.
    ours = {
        path.resolve()
        for path in tree.glob("usr/lib/registry-appliance/lib/*/*/appliance/__init__.py")
    }
    for file in (tree / "DEBIAN/control", *ours):
        text = file.read_text()
        assert __version__ in text
        file.write_text(text.replace(__version__, f"{__version__}{_SUFFIX}"))
        if file.suffix == ".py":
            compiled = ("-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash")
            run("/usr/bin/python3", *compiled, "-s", tree, file)
    package = outside / "higher.deb"
    run("dpkg-deb", "--root-owner-group", "--build", tree, package)
    shutil.rmtree(tree)
    return package


@pytest.fixture(scope="module")
def system(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = debian.unpacked(rootfs, tmp_path_factory.mktemp("booted") / "root")
    yield root
    shutil.rmtree(root)


def test_from_apt_to_purge(system: Path, outside: Path, deb: Path, upgrade: Path) -> None:
    shutil.copy(deb, outside / "registry.deb")
    said = debian.booted(
        system,
        outside,
        f"""
{_PREPARE}
names
apt-get install -y /outside/registry.deb
systemctl start registry
{_USE}

tells() {{ systemctl status --no-pager registry | grep -E 'Status: "1 repository, 0 uploads running, [0-9]+ % disk"'; }}
wait_for 15 tells

# A half-written settings file changes nothing, and is named.
printf '[server\\n' >>/etc/registry.toml
systemctl reload registry
wait_for 5 sh -c 'journalctl -u registry | grep -q "reload refused, nothing changed"'
sed -i '$d' /etc/registry.toml
answers

# Where it cannot start, somebody is told.
cat >/tmp/hook.py <<'HOOK'
from http.server import BaseHTTPRequestHandler, HTTPServer
class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        open("/tmp/told", "wb").write(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", 9999), Hook).handle_request()
HOOK
python3 /tmp/hook.py &
sed -i 's|^#webhook = .*|webhook = "http://127.0.0.1:9999/hook"|; s|^#drain_seconds = .*|drain_seconds = "soon"|' /etc/registry.toml
chgrp registry /etc/registry.toml
chmod 640 /etc/registry.toml
systemctl restart registry || true
wait_for 30 test -s /tmp/told
grep -F 'registry.service on' /tmp/told
grep -F 'server.drain_seconds must be' /tmp/told
sed -i 's/^drain_seconds = .*//' /etc/registry.toml
systemctl reset-failed registry
systemctl start registry
wait_for 10 answers

# Killed, it is back at once.
before=$(main_process)
kill -KILL "$before"
began=$(date +%s%N)
wait_for 10 answers
echo "figure: back after $((($(date +%s%N) - began) / 1000000)) ms"
is_other "$before"

# A loop that hangs is noticed, and ended.
mkdir -p /etc/systemd/system/registry.service.d
cat >/etc/systemd/system/registry.service.d/hang.conf <<'CONF'
[Service]
WatchdogSec=3
ExecStart=
ExecStart=/usr/lib/registry-appliance/bin/python3 -I -c 'import signal, sys, time; signal.signal(signal.SIGRTMIN, lambda *_: time.sleep(1e6)); sys.argv = ["registry", "serve"]; from appliance.cli import main; main()'
CONF
systemctl daemon-reload
systemctl restart registry
wait_for 10 answers
sleep 4
answers
before=$(main_process)
kill -RTMIN "$before"
wait_for 15 is_other "$before"
wait_for 10 answers
journalctl -u registry | grep -F 'Watchdog timeout'
rm /etc/systemd/system/registry.service.d/hang.conf
systemctl daemon-reload
systemctl restart registry
wait_for 10 answers

# It is upgraded while a push and a pull go on, and others ask.
head -c {_SLOW_SIZE} /dev/urandom >/tmp/pull
head -c {_SLOW_SIZE} /dev/urandom >/tmp/push
sum() {{ sha256sum "$1" | cut -d' ' -f1; }}
ask() {{ client curl -fsS --cacert /tmp/ca.crt --user "admin:$password" "$@"; }}
blobs=https://registry.test/v2/demo/app/blobs
ask -X POST -H 'Content-Type: application/octet-stream' --data-binary @/tmp/pull "$blobs/uploads/?digest=sha256:$(sum /tmp/pull)"
rate=$(({_SLOW_SIZE} / {_SLOW_SECONDS}))
before=$(main_process)
restarts=$(systemctl show --property=NRestarts --value registry)
began=$(date +%s)
ask --limit-rate $rate --output /tmp/pulled.blob "$blobs/sha256:$(sum /tmp/pull)" & pull=$!
ask --limit-rate $rate -X POST -H 'Content-Type: application/octet-stream' --data-binary @/tmp/push "$blobs/uploads/?digest=sha256:$(sum /tmp/push)" & push=$!
client python3 /outside/ask.py https://registry.test/v2/demo/app/manifests/v1 "admin:$password" 1000 >/outside/asked & asking=$!
sleep 3
apt-get install -y /outside/higher.deb
is_other "$before"
kill -0 "$before"
echo "figure: upgraded within $(($(date +%s) - began - 3)) s"
answers
touch /tmp/enough
wait $asking
wait $pull
wait $push
echo "figure: the slow ones took $(($(date +%s) - began)) s"
cmp /tmp/pull /tmp/pulled.blob
ask --output /tmp/pushed.blob "$blobs/sha256:$(sum /tmp/push)"
cmp /tmp/push /tmp/pushed.blob
wait_for 10 sh -c "! kill -0 $before 2>/dev/null"
[ "$restarts" = "$(systemctl show --property=NRestarts --value registry)" ]
registry --version | grep -F '{__version__}{_SUFFIX}'
journalctl -u registry | grep -F 'Registry {__version__}{_SUFFIX} at'
kill -KILL "$(main_process)"
wait_for 10 answers

# Both ports are held by systemd for those who wish so, and the doctor has nothing against it.
systemctl stop registry
systemctl start registry.socket
[ "$(curl -sS -o /dev/null -w '%{{http_code}}' http://registry.test/v2/)" = 308 ]
answers
registry doctor >/tmp/found || true
cat /tmp/found
if grep FAIL /tmp/found | grep -v clock; then exit 1; fi
systemctl stop registry.socket registry

# Removed, its data stays, and when it is purged, too, unless somebody says otherwise.
systemctl start registry
apt-get remove -y registry-appliance
! systemctl is-active --quiet registry
[ -s /var/lib/registry/catalogue.sqlite3 ]
[ -e /etc/registry.toml ]
apt-get install -y /outside/registry.deb
wait_for 10 answers
apt-get purge -y registry-appliance
[ -s /var/lib/registry/catalogue.sqlite3 ]
[ ! -e /etc/registry.toml ]
apt-get install -y /outside/registry.deb
wait_for 10 answers
echo 'registry-appliance registry-appliance/remove-data boolean true' | debconf-set-selections
apt-get purge -y registry-appliance
[ ! -e /var/lib/registry/catalogue.sqlite3 ]
""",
        within=300,
    )
    figures = [line for line in said.splitlines() if line.startswith("figure: ")]
    asked = json.loads((outside / "asked").read_text())
    print(*figures, asked, sep="\n")
    assert asked["failed"] == []
    assert asked["asked"] >= 1000
    assert asked["slowest"] < 2


def test_from_pip(system: Path, outside: Path, wheels: Path) -> None:
    debian.booted(
        system,
        outside,
        f"""
{_PREPARE}
names
python3 -m venv /opt/registry
/opt/registry/bin/pip install --quiet --no-index --find-links /wheels registry-appliance
ln -s /opt/registry/bin/registry /usr/local/bin/
registry setup
systemctl start registry
{_USE}
before=$(main_process)
kill -KILL "$before"
wait_for 10 answers
before=$(main_process)
systemctl kill --kill-whom=main --signal=SIGUSR2 registry
wait_for 10 is_other "$before"
answers
systemctl stop registry
registry setup --remove
[ ! -e /etc/systemd/system/registry.service ]
[ -s /var/lib/registry/catalogue.sqlite3 ]
""",
        f"--bind-ro={wheels}:/wheels",
    )
