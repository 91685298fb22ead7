"""Every endpoint and every outcome it can have: status, headers and body."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.oci.mediatypes import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from appliance.protocol.routes import ACTIONS, Resource, resolve
from tests.api.driver import ALICE, AUTHORITY, BOB, Answer, Registry


def digest(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def document(media_type: str, **fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, **fields}).encode()


LAYER = b"a layer, " * 10
CONFIG = b'{"architecture":"amd64","os":"linux"}'
UNUSED = b"a blob that no manifest needs"
THEIRS = b"a blob of the other repository"
NEVER = b"a blob that is not here"
IMAGE = document(
    OCI_MANIFEST,
    config=descriptor(CONFIG, "application/vnd.oci.image.config.v1+json"),
    layers=[descriptor(LAYER, "application/vnd.oci.image.layer.v1.tar")],
)
DOCKER_IMAGE = document(
    DOCKER_MANIFEST,
    config=descriptor(CONFIG, "application/vnd.docker.container.image.v1+json"),
    layers=[descriptor(LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
)
INDEX = document(OCI_INDEX, manifests=[descriptor(IMAGE, OCI_MANIFEST)])
DOCKER_LIST = document(DOCKER_INDEX, manifests=[descriptor(DOCKER_IMAGE, DOCKER_MANIFEST)])
SIGNATURE = document(
    OCI_MANIFEST,
    artifactType="application/vnd.example.signature",
    config=descriptor(CONFIG, "application/vnd.oci.empty.v1+json"),
    layers=[],
    subject=descriptor(IMAGE, OCI_MANIFEST),
    annotations={"signed-by": "alice"},
)
SBOM = document(
    OCI_MANIFEST,
    config=descriptor(CONFIG, "application/vnd.example.sbom.config"),
    layers=[],
    subject=descriptor(IMAGE, OCI_MANIFEST),
)
BROKEN = document(
    OCI_MANIFEST,
    config=descriptor(CONFIG, "application/vnd.oci.image.config.v1+json"),
    layers=[descriptor(NEVER, "application/vnd.oci.image.layer.v1.tar")],
)
BROKEN_INDEX = document(OCI_INDEX, manifests=[descriptor(NEVER, OCI_MANIFEST)])
AMBIGUOUS = document(OCI_INDEX, manifests=[], layers=[])
SCHEMA_1 = b'{"schemaVersion": 1, "name": "app", "tag": "latest"}'

CHALLENGE = {"www-authenticate": 'Basic realm="Registry Realm"'}
ALWAYS = {"docker-distribution-api-version": "registry/2.0", "x-content-type-options": "nosniff"}
FIVE = b"12345"


@dataclass(frozen=True)
class Case:
    """One request and what must come back; `{…}` in a path is filled in with what `world` made."""

    name: str
    method: str
    path: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    code: str | None = None
    json: object = None
    detail: Sequence[object] | None = None
    send_headers: Mapping[str, str] = field(default_factory=dict)
    send: bytes = b""
    login: tuple[str, str] | None = ALICE
    absent: Sequence[str] = ()


APP = "/v2/library/app"
UPLOAD = APP + "/blobs/uploads/"
IMMUTABLE = {"cache-control": "max-age=31536000, immutable"}


def blob_headers(content: bytes) -> dict[str, str]:
    return {
        "docker-content-digest": digest(content),
        "etag": f'"{digest(content)}"',
        "content-length": str(len(content)),
        "content-type": "application/octet-stream",
        "accept-ranges": "bytes",
        **IMMUTABLE,
    }


def manifest_headers(content: bytes, media_type: str) -> dict[str, str]:
    return {
        "docker-content-digest": digest(content),
        "etag": f'"{digest(content)}"',
        "content-length": str(len(content)),
        "content-type": media_type,
    }


def progress(session: str, offset: int) -> dict[str, str]:
    return {
        "location": f"{UPLOAD}{session}",
        "range": f"0-{max(offset - 1, 0)}",
        "docker-upload-uuid": session,
    }


def stored(content: bytes, kind: str = "blobs", algorithm: str = "sha256") -> dict[str, str]:
    name = digest(content, algorithm)
    return {
        "location": f"{APP}/{kind}/{name}",
        "docker-content-digest": name,
        "content-length": "0",
    }


def referrer(content: bytes, artifact_type: str, **more: Any) -> dict[str, Any]:
    return {**descriptor(content, OCI_MANIFEST), "artifactType": artifact_type, **more}


SIGNED = referrer(
    SIGNATURE, "application/vnd.example.signature", annotations={"signed-by": "alice"}
)
BILLED = referrer(SBOM, "application/vnd.example.sbom.config")
MANIFEST_TYPE = {"Content-Type": OCI_MANIFEST}

CASES = [
    # --- the service itself
    Case("home tells what this is", "GET", "/", 200, login=None),
    Case("alive", "GET", "/healthz", 200, body=b"alive\n", login=None),
    Case("ready", "GET", "/readyz", 200, body=b"ready\n", login=None),
    Case("the authority is for everybody", "GET", "/ca.crt", 200, body=AUTHORITY, login=None),
    Case("a token", "GET", "/auth/token?scope=repository:a:pull", 200, {"cache-control": "no-store"}),
    Case("a token for a form", "POST", "/auth/token", 200, {"cache-control": "no-store"},
         send=b"grant_type=password&username=alice&password=open+sesame", login=None),
    Case("base", "GET", "/v2/", 200, {"content-type": "application/json"}, json={}),
    Case("base without slash", "GET", "/v2", 200, json={}),
    Case("base, head only", "HEAD", "/v2/", 200, {"content-length": "2"}, body=b""),
    Case("base without login", "GET", "/v2/", 401, CHALLENGE, code="UNAUTHORIZED", login=None),
    Case("base, wrong password", "GET", "/v2/", 401, CHALLENGE, code="UNAUTHORIZED", login=("alice", "x")),
    Case("base, unknown account", "GET", "/v2/", 401, CHALLENGE, code="UNAUTHORIZED", login=("eve", "x")),
    Case("base, bob", "GET", "/v2/", 200, json={}, login=BOB),
    Case("base, empty pair", "GET", "/v2/", 401, CHALLENGE, send_headers={"Authorization": "Basic Og=="}),
    Case("base, not base64", "GET", "/v2/", 401, CHALLENGE, send_headers={"Authorization": "Basic %%%"}),
    Case("base, other scheme", "GET", "/v2/", 401, CHALLENGE, send_headers={"Authorization": "Bearer abc"}),
    Case("base, wrong method", "POST", "/v2/", 405, {"allow": "HEAD, GET"}, code="UNSUPPORTED"),
    Case("unknown path", "GET", "/v2/library/app", 404, code="UNSUPPORTED"),
    Case("unknown path without login", "GET", "/v2/library/app", 401, CHALLENGE, login=None),
    Case("unknown path elsewhere", "GET", "/admin", 404, code="UNSUPPORTED", login=None),
    # --- catalog
    Case("catalog", "GET", "/v2/_catalog", 200, json={"repositories": ["library/app", "other/app"]}),
    Case("catalog, first page", "GET", "/v2/_catalog?n=1", 200,
         {"link": '</v2/_catalog?n=1&last=library%2Fapp>; rel="next"'}, json={"repositories": ["library/app"]}),
    Case("catalog, last page", "GET", "/v2/_catalog?n=1&last=library/app", 200,
         json={"repositories": ["other/app"]}, absent=["link"]),
    Case("catalog, bad n", "GET", "/v2/_catalog?n=x", 400, code="UNSUPPORTED"),
    # --- tags
    Case("tags", "GET", APP + "/tags/list", 200,
         json={"name": "library/app", "tags": ["docker", "latest", "list", "multi"]}, absent=["link"]),
    Case("tags with a slash", "GET", APP + "/tags/list/", 200),
    Case("tags, a page", "GET", APP + "/tags/list?n=2", 200,
         {"link": f'<{APP}/tags/list?n=2&last=latest>; rel="next"'},
         json={"name": "library/app", "tags": ["docker", "latest"]}),
    Case("tags, next page", "GET", APP + "/tags/list?n=2&last=latest", 200,
         json={"name": "library/app", "tags": ["list", "multi"]}, absent=["link"]),
    Case("tags, none wanted", "GET", APP + "/tags/list?n=0", 200,
         json={"name": "library/app", "tags": []}, absent=["link"]),
    Case("tags, n negative", "GET", APP + "/tags/list?n=-1", 400, code="UNSUPPORTED"),
    Case("tags, n huge", "GET", APP + "/tags/list?n=1000000000000", 200),
    Case("tags of an untagged repository", "GET", "/v2/other/app/tags/list", 200,
         json={"name": "other/app", "tags": []}),
    Case("tags of nothing", "GET", "/v2/no/app/tags/list", 404, code="NAME_UNKNOWN",
         detail=[{"name": "no/app"}]),
    # --- manifests
    Case("manifest by tag", "GET", APP + "/manifests/latest", 200,
         manifest_headers(IMAGE, OCI_MANIFEST), body=IMAGE, absent=["cache-control"]),
    Case("manifest by digest", "GET", f"{APP}/manifests/{digest(IMAGE)}", 200,
         {**manifest_headers(IMAGE, OCI_MANIFEST), **IMMUTABLE}, body=IMAGE),
    Case("manifest, head only", "HEAD", APP + "/manifests/latest", 200,
         manifest_headers(IMAGE, OCI_MANIFEST), body=b""),
    Case("manifest with a slash", "GET", APP + "/manifests/latest/", 200, body=IMAGE),
    Case("manifest the client has", "GET", APP + "/manifests/latest", 304,
         {"etag": f'"{digest(IMAGE)}"'}, body=b"", send_headers={"If-None-Match": f'"{digest(IMAGE)}"'}),
    Case("docker manifest", "GET", APP + "/manifests/docker", 200,
         manifest_headers(DOCKER_IMAGE, DOCKER_MANIFEST), body=DOCKER_IMAGE),
    Case("docker list", "GET", APP + "/manifests/list", 200,
         manifest_headers(DOCKER_LIST, DOCKER_INDEX), body=DOCKER_LIST),
    Case("index", "GET", APP + "/manifests/multi", 200, manifest_headers(INDEX, OCI_INDEX), body=INDEX),
    Case("manifest, unknown tag", "GET", APP + "/manifests/nope", 404, code="MANIFEST_UNKNOWN",
         detail=[{"name": "library/app", "tag": "nope"}]),
    Case("manifest, unknown digest", "GET", f"{APP}/manifests/{digest(NEVER)}", 404, code="MANIFEST_UNKNOWN"),
    Case("manifest of another repository", "GET", f"/v2/other/app/manifests/{digest(DOCKER_LIST)}", 404,
         code="MANIFEST_UNKNOWN"),
    Case("manifest, head of unknown", "HEAD", APP + "/manifests/nope", 404, body=b""),
    Case("manifest, impossible tag", "GET", APP + "/manifests/-x", 404, code="MANIFEST_UNKNOWN"),
    Case("manifest, bad digest", "GET", APP + "/manifests/sha256:12", 400, code="DIGEST_INVALID"),
    Case("manifest without login", "GET", APP + "/manifests/latest", 401, CHALLENGE, login=None),
    Case("put by tag", "PUT", APP + "/manifests/new", 201, stored(IMAGE, "manifests"),
         body=b"", send=IMAGE, send_headers=MANIFEST_TYPE, absent=["oci-subject"]),
    Case("put by digest", "PUT", f"{APP}/manifests/{digest(IMAGE)}", 201, stored(IMAGE, "manifests"),
         send=IMAGE, send_headers=MANIFEST_TYPE),
    Case("put by sha512", "PUT", f"{APP}/manifests/{digest(IMAGE, 'sha512')}", 201,
         stored(IMAGE, "manifests", "sha512"), send=IMAGE, send_headers=MANIFEST_TYPE),
    Case("put with a subject", "PUT", APP + "/manifests/signature", 201,
         {"oci-subject": digest(IMAGE)}, send=SIGNATURE, send_headers=MANIFEST_TYPE),
    Case("put, type with parameters", "PUT", APP + "/manifests/new", 201, send=IMAGE,
         send_headers={"Content-Type": f"{OCI_MANIFEST}; charset=utf-8"}),
    Case("put, other digest", "PUT", f"{APP}/manifests/{digest(NEVER)}", 400, code="DIGEST_INVALID",
         send=IMAGE, send_headers=MANIFEST_TYPE),
    Case("put, missing layer", "PUT", APP + "/manifests/new", 400, code="MANIFEST_BLOB_UNKNOWN",
         detail=[{"digest": digest(NEVER)}], send=BROKEN, send_headers=MANIFEST_TYPE),
    Case("put, missing child", "PUT", APP + "/manifests/new", 400, code="MANIFEST_BLOB_UNKNOWN",
         detail=[{"digest": digest(NEVER)}], send=BROKEN_INDEX, send_headers={"Content-Type": OCI_INDEX}),
    Case("put, types disagree", "PUT", APP + "/manifests/new", 400, code="MANIFEST_INVALID",
         send=IMAGE, send_headers={"Content-Type": DOCKER_MANIFEST}),
    Case("put, image and index at once", "PUT", APP + "/manifests/new", 400, code="MANIFEST_INVALID",
         send=AMBIGUOUS, send_headers={"Content-Type": OCI_INDEX}),
    Case("put, schema 1", "PUT", APP + "/manifests/new", 400, code="MANIFEST_INVALID", send=SCHEMA_1,
         send_headers={"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}),
    Case("put, not JSON", "PUT", APP + "/manifests/new", 400, code="MANIFEST_INVALID", send=b"{",
         send_headers=MANIFEST_TYPE),
    Case("put, nested deeply", "PUT", APP + "/manifests/new", 400, code="MANIFEST_INVALID",
         send=b'{"x":' + b"[" * 1_000_000, send_headers=MANIFEST_TYPE),
    Case("put, 5 MiB", "PUT", APP + "/manifests/new", 413, code="MANIFEST_INVALID",
         send=b" " * (5 << 20), send_headers=MANIFEST_TYPE),
    Case("put, bad tag", "PUT", APP + "/manifests/" + "x" * 129, 400, code="TAG_INVALID", send=IMAGE),
    Case("put without login", "PUT", APP + "/manifests/new", 401, CHALLENGE, login=None, send=IMAGE),
    Case("push by digest with tags", "PUT", f"{APP}/manifests/{digest(IMAGE)}?tag=a&tag=b.1", 201,
         stored(IMAGE, "manifests"), send_headers={"Content-Type": OCI_MANIFEST}, send=IMAGE),
    Case("push by digest with a bad tag", "PUT", f"{APP}/manifests/{digest(IMAGE)}?tag=a&tag=-b", 400,
         code="TAG_INVALID", send_headers={"Content-Type": OCI_MANIFEST}, send=IMAGE),
    Case("push by digest with too many tags", "PUT",
         f"{APP}/manifests/{digest(IMAGE)}?" + "&".join(f"tag=t{n}" for n in range(101)), 414,
         code="TAG_INVALID", send_headers={"Content-Type": OCI_MANIFEST}, send=IMAGE),
    Case("push by tag ignores further tags", "PUT", f"{APP}/manifests/new?tag=a", 201, absent=["oci-tag"],
         send_headers={"Content-Type": OCI_MANIFEST}, send=IMAGE),
    Case("field in another case", "PUT", APP + "/manifests/new", 400, code="MANIFEST_INVALID",
         send_headers={"Content-Type": OCI_MANIFEST}, send=IMAGE.replace(b'"schemaVersion"', b'"Layers":[],"x"')),
    Case("delete a repository", "DELETE", APP + "/", 202, {"content-length": "0"}, body=b""),
    Case("delete, unknown repository", "DELETE", "/v2/no/app/", 404, code="NAME_UNKNOWN"),
    Case("delete a repository, without the slash", "DELETE", APP, 404, code="UNSUPPORTED"),
    Case("get a repository", "GET", APP + "/", 404, code="UNSUPPORTED"),
    Case("delete a repository without login", "DELETE", APP + "/", 401, CHALLENGE, login=None),
    Case("delete a tag", "DELETE", APP + "/manifests/latest", 202, {"content-length": "0"}, body=b""),
    Case("delete a manifest", "DELETE", f"{APP}/manifests/{digest(IMAGE)}", 202, body=b""),
    Case("delete, unknown tag", "DELETE", APP + "/manifests/nope", 404, code="MANIFEST_UNKNOWN"),
    Case("delete, unknown digest", "DELETE", f"{APP}/manifests/{digest(NEVER)}", 404, code="MANIFEST_UNKNOWN"),
    Case("delete without login", "DELETE", APP + "/manifests/latest", 401, CHALLENGE, login=None),
    Case("manifest, wrong method", "POST", APP + "/manifests/latest", 405,
         {"allow": "HEAD, GET, PUT, DELETE"}, code="UNSUPPORTED"),
    # --- blobs
    Case("blob", "GET", f"{APP}/blobs/{digest(LAYER)}", 200, blob_headers(LAYER), body=LAYER),
    Case("blob, head only", "HEAD", f"{APP}/blobs/{digest(LAYER)}", 200, blob_headers(LAYER), body=b""),
    Case("blob, colon encoded", "GET", f"{APP}/blobs/{digest(LAYER).replace(':', '%3A')}", 200, body=LAYER),
    Case("blob, empty", "GET", f"{APP}/blobs/{digest(b'')}", 200, blob_headers(b""), body=b""),
    Case("blob, a range", "GET", f"{APP}/blobs/{digest(LAYER)}", 206,
         {"content-range": f"bytes 2-6/{len(LAYER)}", "content-length": "5"},
         body=LAYER[2:7], send_headers={"Range": "bytes=2-6"}),
    Case("blob, from an offset", "GET", f"{APP}/blobs/{digest(LAYER)}", 206,
         {"content-range": f"bytes 80-{len(LAYER) - 1}/{len(LAYER)}"},
         body=LAYER[80:], send_headers={"Range": "bytes=80-"}),
    Case("blob, last bytes", "GET", f"{APP}/blobs/{digest(LAYER)}", 206,
         body=LAYER[-3:], send_headers={"Range": "bytes=-3"}),
    Case("blob, range past the end is cut", "GET", f"{APP}/blobs/{digest(LAYER)}", 206,
         body=LAYER[80:], send_headers={"Range": "bytes=80-999999"}),
    Case("blob, range outside", "GET", f"{APP}/blobs/{digest(LAYER)}", 416,
         {"content-range": f"bytes */{len(LAYER)}"}, send_headers={"Range": "bytes=90-"}),
    Case("blob, malformed range means all", "GET", f"{APP}/blobs/{digest(LAYER)}", 200,
         body=LAYER, send_headers={"Range": "bytes=b-a"}),
    Case("blob the client has", "GET", f"{APP}/blobs/{digest(LAYER)}", 304, body=b"",
         send_headers={"If-None-Match": f'W/"{digest(LAYER)}"'}),
    Case("blob, unknown", "GET", f"{APP}/blobs/{digest(NEVER)}", 404, code="BLOB_UNKNOWN",
         detail=[{"digest": digest(NEVER)}]),
    Case("blob of another repository", "GET", f"/v2/other/app/blobs/{digest(LAYER)}", 404, code="BLOB_UNKNOWN"),
    Case("blob, unknown algorithm", "GET", APP + "/blobs/md5:" + "0" * 32, 400, code="DIGEST_INVALID"),
    Case("blob, wrong length", "GET", APP + "/blobs/sha256:" + "0" * 63, 400, code="DIGEST_INVALID"),
    Case("blob, upper-case hex", "GET", APP + "/blobs/sha256:" + "A" * 64, 400, code="DIGEST_INVALID"),
    Case("blob without login", "GET", f"{APP}/blobs/{digest(LAYER)}", 401, CHALLENGE, login=None),
    Case("delete a blob", "DELETE", f"{APP}/blobs/{digest(UNUSED)}", 202, body=b""),
    Case("delete a blob in use", "DELETE", f"{APP}/blobs/{digest(LAYER)}", 405, code="UNSUPPORTED"),
    Case("delete, unknown blob", "DELETE", f"{APP}/blobs/{digest(NEVER)}", 404, code="BLOB_UNKNOWN"),
    Case("blob, wrong method", "PUT", f"{APP}/blobs/{digest(LAYER)}", 405, {"allow": "HEAD, GET, DELETE"}),
    # --- upload sessions
    Case("post opens a session", "POST", UPLOAD, 202, {"range": "0-0", "content-length": "0"}, body=b""),
    Case("post without slash", "POST", UPLOAD.rstrip("/"), 202),
    Case("post a whole blob", "POST", f"{UPLOAD}?digest={digest(NEVER)}", 201, stored(NEVER), send=NEVER),
    Case("post a whole blob, sha512", "POST", f"{UPLOAD}?digest={digest(NEVER, 'sha512')}", 201,
         stored(NEVER, algorithm="sha512"), send=NEVER),
    Case("post, bytes of another digest", "POST", f"{UPLOAD}?digest={digest(NEVER)}", 400,
         code="DIGEST_INVALID", send=b"other"),
    Case("post, algorithm unknown", "POST", f"{UPLOAD}?digest-algorithm=md5", 400, code="DIGEST_INVALID"),
    Case("post without login", "POST", UPLOAD, 401, CHALLENGE, login=None),
    Case("mount", "POST", f"{UPLOAD}?mount={digest(CONFIG)}&from=other/app", 201, stored(CONFIG)),
    Case("mount, unknown there", "POST", f"{UPLOAD}?mount={digest(NEVER)}&from=other/app", 202, {"range": "0-0"}),
    Case("mount from anywhere", "POST", f"{UPLOAD}?mount={digest(THEIRS)}", 201, stored(THEIRS)),
    Case("mount from nowhere", "POST", f"{UPLOAD}?mount={digest(NEVER)}", 202),
    Case("mount that fails, sha512", "POST", f"{UPLOAD}?mount=sha512:{'0' * 128}", 202),
    Case("mount from a bad name", "POST", f"{UPLOAD}?mount={digest(CONFIG)}&from=Other", 202),
    Case("mount of a bad digest", "POST", f"{UPLOAD}?mount=x&from=other/app", 202),
    Case("uploads, wrong method", "GET", UPLOAD, 405, {"allow": "POST"}),
    Case("end with an empty chunk beyond", "PUT", UPLOAD + "{session}?digest=" + digest(FIVE), 201, stored(FIVE),
         send_headers={"Content-Range": "5-5", "Content-Length": "0"}),
    Case("end with a chunk beyond", "PUT", UPLOAD + "{session}?digest=" + digest(FIVE), 416,
         {"range": "0-4"}, send_headers={"Content-Range": "6-6"}, send=b"x"),
    Case("status", "GET", UPLOAD + "{session}", 204, progress("{session}", 5), body=b"", absent=["content-length"]),
    Case("status of an empty one", "GET", UPLOAD + "{empty}", 204, progress("{empty}", 0)),
    Case("status, unknown", "GET", UPLOAD + "nope", 404, code="BLOB_UPLOAD_UNKNOWN"),
    Case("status, of another account", "GET", UPLOAD + "{session}", 404, code="BLOB_UPLOAD_UNKNOWN", login=BOB),
    Case("status, of another repository", "GET", "/v2/other/app/blobs/uploads/{session}", 404,
         code="BLOB_UPLOAD_UNKNOWN"),
    Case("status without login", "GET", UPLOAD + "{session}", 401, CHALLENGE, login=None),
    Case("stream", "PATCH", UPLOAD + "{session}", 202, progress("{session}", 8), send=b"678"),
    Case("empty stream", "PATCH", UPLOAD + "{empty}", 202, {"range": "0-0"}),
    Case("chunk", "PATCH", UPLOAD + "{session}", 202, progress("{session}", 8), send=b"678",
         send_headers={"Content-Range": "5-7"}),
    Case("chunk at a wrong offset", "PATCH", UPLOAD + "{session}", 416, {"range": "0-4", "location": UPLOAD + "{session}"},
         code="BLOB_UPLOAD_INVALID", send=b"678", send_headers={"Content-Range": "6-8"}),
    Case("chunk, lengths differ", "PATCH", UPLOAD + "{session}", 400, code="SIZE_INVALID", send=b"678",
         send_headers={"Content-Range": "5-9"}),
    Case("chunk, malformed range", "PATCH", UPLOAD + "{session}", 416, code="BLOB_UPLOAD_INVALID",
         send=b"678", send_headers={"Content-Range": "x-y"}),
    Case("chunk, of another account", "PATCH", UPLOAD + "{session}", 404, code="BLOB_UPLOAD_UNKNOWN",
         send=b"678", login=BOB),
    Case("chunk, unknown session", "PATCH", UPLOAD + "nope", 404, code="BLOB_UPLOAD_UNKNOWN", send=b"678"),
    Case("finish with the last bytes", "PUT", UPLOAD + "{session}?digest=" + digest(FIVE + b"678"), 201,
         stored(FIVE + b"678"), send=b"678", body=b""),
    Case("finish without bytes", "PUT", UPLOAD + "{session}?digest=" + digest(FIVE), 201, stored(FIVE)),
    Case("finish by sha512", "PUT", UPLOAD + "{session}?digest=" + digest(FIVE, "sha512"), 201,
         stored(FIVE, algorithm="sha512")),
    Case("finish an empty blob", "PUT", UPLOAD + "{empty}?digest=" + digest(b""), 201, stored(b"")),
    Case("finish with a wrong digest", "PUT", UPLOAD + "{session}?digest=" + digest(NEVER), 400,
         code="DIGEST_INVALID", detail=[{"digest": digest(NEVER)}]),
    Case("finish without a digest", "PUT", UPLOAD + "{session}", 400, code="DIGEST_INVALID"),
    Case("finish at a wrong offset", "PUT", UPLOAD + "{session}?digest=" + digest(FIVE), 416,
         {"range": "0-4"}, send=b"1", send_headers={"Content-Range": "0-0"}),
    Case("finish, of another account", "PUT", UPLOAD + "{session}?digest=" + digest(FIVE), 404, login=BOB),
    Case("cancel", "DELETE", UPLOAD + "{session}", 204, body=b""),
    Case("cancel, unknown", "DELETE", UPLOAD + "nope", 404, code="BLOB_UPLOAD_UNKNOWN"),
    Case("cancel, of another account", "DELETE", UPLOAD + "{session}", 404, login=BOB),
    Case("session, wrong method", "POST", UPLOAD + "{session}", 405, {"allow": "HEAD, GET, PATCH, PUT, DELETE"}),
    # --- referrers
    Case("referrers", "GET", f"{APP}/referrers/{digest(IMAGE)}", 200, {"content-type": OCI_INDEX},
         json={"schemaVersion": 2, "mediaType": OCI_INDEX,
               "manifests": sorted([SIGNED, BILLED], key=lambda entry: str(entry["digest"]))},
         absent=["oci-filters-applied"]),
    Case("referrers of one type", "GET",
         f"{APP}/referrers/{digest(IMAGE)}?artifactType=application/vnd.example.signature", 200,
         {"oci-filters-applied": "artifactType"},
         json={"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [SIGNED]}),
    Case("referrers of nothing", "GET", f"{APP}/referrers/{digest(NEVER)}", 200,
         json={"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
    Case("referrers in an unknown repository", "GET", f"/v2/no/app/referrers/{digest(IMAGE)}", 200,
         json={"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
    Case("referrers of a tag", "GET", APP + "/referrers/latest", 400, code="DIGEST_INVALID"),
    Case("referrers without login", "GET", f"{APP}/referrers/{digest(IMAGE)}", 401, CHALLENGE, login=None),
    # --- names
    Case("name, traversal", "GET", "/v2/../../etc/manifests/passwd", 400, code="NAME_INVALID"),
    Case("name, encoded traversal", "GET", "/v2/%2e%2e/%2e%2e/etc/manifests/passwd", 400, code="NAME_INVALID"),
    Case("name, encoded slash", "GET", "/v2/library%2fapp/manifests/latest", 400, code="NAME_INVALID"),
    Case("name, encoded NUL", "GET", "/v2/library/app%00/manifests/latest", 400, code="NAME_INVALID"),
    Case("name, upper case", "GET", "/v2/Library/app/manifests/latest", 400, code="NAME_INVALID"),
    Case("name, too long", "GET", "/v2/" + "a" * 256 + "/manifests/latest", 400, code="NAME_INVALID"),
    Case("name, empty component", "GET", "/v2/library//app/manifests/latest", 400, code="NAME_INVALID"),
    Case("path, not UTF-8", "GET", "/v2/library/%ff/manifests/latest", 400, code="UNSUPPORTED"),
    Case("query, not UTF-8", "GET", "/v2/_catalog?last=%ff", 400, code="UNSUPPORTED"),
    Case("query that means nothing here", "GET", f"{APP}/blobs/{digest(CONFIG)}?x=%ff", 200),
    Case("query, too many parameters", "GET", "/v2/_catalog?" + "&".join("a=1" for _ in range(5000)), 400),
]  # fmt: skip


@pytest.fixture
async def world(registry: Registry) -> tuple[Registry, dict[str, str]]:
    """Two repositories with images of every kind, and two open sessions of alice's."""
    for name, contents in (
        ("library/app", (LAYER, CONFIG, UNUSED, b"")),
        ("other/app", (CONFIG, THEIRS)),
    ):
        for content in contents:
            path = f"/v2/{name}/blobs/uploads/?digest={digest(content)}"
            assert (await registry.ask("POST", path, body=content)).status == 201
    for name, reference, media_type, content in (
        ("library/app", "latest", OCI_MANIFEST, IMAGE),
        ("library/app", "docker", DOCKER_MANIFEST, DOCKER_IMAGE),
        ("library/app", "multi", OCI_INDEX, INDEX),
        ("library/app", "list", DOCKER_INDEX, DOCKER_LIST),
        ("library/app", digest(SIGNATURE), OCI_MANIFEST, SIGNATURE),
        ("library/app", digest(SBOM), OCI_MANIFEST, SBOM),
        ("other/app", digest(SBOM), OCI_MANIFEST, SBOM),
    ):
        path = f"/v2/{name}/manifests/{reference}"
        answer = await registry.ask("PUT", path, {"Content-Type": media_type}, content)
        assert answer.status == 201, answer.body
    session = (await registry.ask("POST", UPLOAD)).headers["docker-upload-uuid"]
    assert (await registry.ask("PATCH", UPLOAD + session, body=FIVE)).status == 202
    empty = (await registry.ask("POST", UPLOAD)).headers["docker-upload-uuid"]
    return registry, {"{session}": session, "{empty}": empty}


def filled(text: str, made: Mapping[str, str]) -> str:
    for mark, value in made.items():
        text = text.replace(mark, value)
    return text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
async def test_endpoint(case: Case, world: tuple[Registry, dict[str, str]]) -> None:
    registry, made = world
    answer = await registry.ask(
        case.method, filled(case.path, made), case.send_headers, case.send, login=case.login
    )
    expect(case, answer, made)


def expect(case: Case, answer: Answer, made: Mapping[str, str]) -> None:
    assert answer.status == case.status, answer.body
    wanted = ALWAYS | {name: filled(value, made) for name, value in case.headers.items()}
    assert {name: answer.headers.get(name) for name in wanted} == wanted
    assert not set(case.absent) & answer.headers.keys()
    if case.body is not None:
        assert answer.body == case.body
    if case.json is not None:
        assert answer.json == case.json
    if case.method == "HEAD" or answer.status == 304:
        assert answer.body == b""
    elif "content-length" in answer.headers:
        assert answer.headers["content-length"] == str(len(answer.body))
    if answer.status >= 400 and case.method != "HEAD":
        assert answer.headers["content-type"] == "application/json"
        assert all(error["code"] and error["message"] for error in answer.json["errors"])
        assert case.code is None or answer.code == case.code
        if case.detail is not None:
            assert [error["detail"] for error in answer.json["errors"]] == list(case.detail)


def test_the_table_leaves_no_endpoint_out() -> None:
    seen = set()
    for case in CASES:
        if case.status < 400 or case.status == 416:
            route = resolve(case.method, case.path.partition("?")[0].encode())
            seen.add((route.resource, route.method))
    assert seen == {(resource, method) for resource in ACTIONS for method in ACTIONS[resource]}


async def test_every_route_has_a_handler(registry: Registry) -> None:
    assert set(registry.application.handlers) == {
        (resource, method) for resource in ACTIONS for method in ACTIONS[resource]
    }


PATHS = {
    Resource.BASE: "/v2/",
    Resource.CATALOG: "/v2/_catalog",
    Resource.TAGS: APP + "/tags/list",
    Resource.MANIFEST: APP + "/manifests/latest",
    Resource.BLOB: f"{APP}/blobs/{digest(LAYER)}",
    Resource.UPLOADS: UPLOAD,
    Resource.UPLOAD: UPLOAD + "{session}",
    Resource.REFERRERS: f"{APP}/referrers/{digest(IMAGE)}",
    Resource.REPOSITORY: APP + "/",
}


@pytest.mark.parametrize("variant", ["{}", "/{}", "{}/", "//{}", "{}?n=1"])
async def test_nothing_under_v2_is_open(
    world: tuple[Registry, dict[str, str]], variant: str
) -> None:
    registry, made = world
    for resource, methods in ACTIONS.items():
        if all(action is None for action in methods.values()):
            continue
        for method in (*methods, "HEAD", "OPTIONS", "TRACE"):
            path = variant.format(filled(PATHS[resource], made))
            answer = await registry.ask(method, path, login=None)
            assert answer.status == 401, (method, path)
            assert answer.headers["www-authenticate"] == 'Basic realm="Registry Realm"'


async def test_a_failed_request_leaves_nothing_behind(
    world: tuple[Registry, dict[str, str]], tmp_path: Path
) -> None:
    registry, _ = world
    before = everything(tmp_path)
    refused = [
        case
        for case in CASES
        if case.status in {400, 413} and case.method in {"PUT", "POST"} and "{" not in case.path
    ]
    for case in refused:
        await registry.ask(case.method, case.path, case.send_headers, case.send)
    assert len(refused) > 10
    assert everything(tmp_path) == before


def everything(folder: Path) -> list[Path]:
    """All blobs and staged files."""
    return sorted(
        path
        for part in ("blobs", "uploads")
        for path in (folder / part).rglob("*")
        if path.is_file()
    )
