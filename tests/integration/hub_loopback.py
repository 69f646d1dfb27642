"""A hub on loopback: the calls `huggingface_hub` makes to publish a folder, and their failures.

Branches are plain folders under `root/models/owner/name/BRANCH`, so what was pushed can be read by
anything that reads folders. Large files come through Xet, the way that `huggingface_hub` takes by
itself, or through the LFS batch call and a PUT; either way their content must hash to its name, and
a commit that names an object which was never sent is refused.
"""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import hub_xet
import huggingface_hub.constants
import huggingface_hub.utils._http
import yaml
from loopback import Handler, serving

TOKEN = "hf_" + "LoopbackLoopbackLoopbackLoopback01"
LARGE = (".safetensors", ".parquet", ".png", ".bin")


@dataclass
class Fault:
    """Answer matching requests with `status` (0: close the connection), `times` times."""

    method: str
    path: str
    status: int
    times: int = 10**9
    after: int = 0
    """Matching requests to let through first."""


@dataclass
class File:
    """A file of a repository, as it is downloaded."""

    content: bytes
    commit: str


@dataclass
class Hub:
    root: Path
    endpoint: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """(method, path, status), in the order they ended."""
    put_started: threading.Event = field(default_factory=threading.Event)
    hold_put: threading.Event | None = None
    """All PUTs but the first wait for this event, where there is one."""
    num_puts: int = 0
    token_role: str = "write"
    commits: dict[str, list[str]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def branch(self, repo: str, branch: str = "main", kind: str = "models") -> Path:
        return self.root / kind / repo / branch.replace("/", "__")

    def changes(self) -> list[tuple[str, str, int]]:
        """Return all requests but those that only ask who this is."""
        asked = {"/api/whoami-v2", "/api/agent-harnesses"}  # the client itself asks the second
        return [request for request in self.requests if request[1] not in asked]

    def count(self, method: str, path: str, status: int = 200) -> int:
        pattern = re.compile(path)
        return sum(
            m == method and s == status and bool(pattern.search(p)) for m, p, s in self.requests
        )

    def fault_for(self, method: str, path: str) -> int | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and re.search(fault.path, path):
                    if fault.after > 0:
                        fault.after -= 1
                    elif fault.times > 0:
                        fault.times -= 1
                        return fault.status
        return None


@contextmanager
def running_hub(root: Path) -> Iterator[Hub]:
    hub = Hub(root=root)
    (root / "lfs").mkdir(parents=True)

    with serving(_Handler, state=hub) as hub.endpoint:
        try:
            yield hub
        finally:
            if hub.hold_put:
                hub.hold_put.set()


@contextmanager
def connected_hub(root: Path, monkeypatch, *, xet: bool = False) -> Iterator[Hub]:
    """Run a hub and make this process's `huggingface_hub` talk to it, without waits."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", not xet)
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub(root) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        yield hub


class _Handler(Handler):
    state: Hub

    def get(self):
        self._serve("GET")

    def head(self):
        self._serve("HEAD")

    def post(self):
        self._serve("POST")

    def put(self):
        self._serve("PUT")

    def _serve(self, method):
        url = urlsplit(self.path)
        path, query = url.path, parse_qs(url.query)
        body = self.body()
        status = self.state.fault_for(method, path)
        if status == 0:
            self.state.requests.append((method, path, 0))
            self.close_connection = True
            return
        if status is not None:
            self._answer(method, status, {"error": f"injected {status}"})
            return
        token = hub_xet.TOKEN if path.startswith("/cas/") else TOKEN
        if method != "PUT" and self.headers.get("Authorization") != f"Bearer {token}":
            self._answer(method, 401, {"error": "Invalid credentials in Authorization header"})
            return
        for route_method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if route_method == method and match:
                with self.state.lock if method != "PUT" else _no_lock():
                    status, answer = action(self.state, body, query, **match.groupdict())
                self._answer(method, status, answer)
                return
        self._answer(method, 404, {"error": f"no route for {method} {path}"})

    def _answer(self, method, status, value):
        self.state.requests.append((method, urlsplit(self.path).path, status))
        body, facts = json.dumps(value).encode() if not isinstance(value, File) else b"", {}
        if isinstance(value, File):
            body = value.content
            facts = {"ETag": f'"{_git_oid(body)}"', "X-Repo-Commit": value.commit}
        if method != "HEAD":
            self.reply(status, body, facts)
            return
        self.send_response(status)  # as the answer to GET, without its body
        for name, fact in {"Content-Length": str(len(body)), **facts}.items():
            self.send_header(name, fact)
        self.end_headers()


@contextmanager
def _no_lock():
    yield


def create(hub, body, query):
    values = json.loads(body)
    repo = f"{values['organization'] or 'tester'}/{values['name']}"
    kind = "datasets" if values.get("type") == "dataset" else "models"
    prefix = "datasets/" if kind == "datasets" else ""
    folder = hub.root / kind / repo
    answer = {"url": f"{hub.endpoint}/{prefix}{repo}"}
    if folder.exists():
        return 409, answer | {"error": "You already created this repo"}
    hub.branch(repo, kind=kind).mkdir(parents=True)
    (folder / "visibility").write_text(values.get("visibility", "public"))
    hub.commits[f"{kind}/{repo}/main"] = ["0" * 40]
    return 200, answer


def whoami(hub, body, query):
    token = {"displayName": "t", "role": hub.token_role}
    orgs = [{"name": "lab"}]
    return 200, {"type": "user", "name": "tester", "orgs": orgs, "auth": {"accessToken": token}}


def settings(hub, body, query, kind, repo):
    (hub.root / kind / repo / "settings").write_bytes(body)
    return 200, {}


def tree(hub, body, query, kind, repo, revision, under=""):
    folder = _branch_of(hub, repo, revision, kind)
    if not (folder / unquote(under or "")).is_dir():
        return 404, {"error": "no such revision"}
    is_recursive = query.get("recursive", ["false"])[0].lower() in {"true", "1"}
    found = (folder / unquote(under or "")).glob("**/*" if is_recursive else "*")
    return 200, [_entry(folder, path) for path in sorted(found)]


def _branch_of(hub, repo, revision, kind):
    """Return a branch's folder, also where it is named by its newest commit."""
    newest = hub.commits.get(f"{kind}/{repo}/main", [""])[-1]
    return hub.branch(repo, "main" if revision == newest else unquote(revision), kind)


def _entry(folder, path):
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": _git_oid(name.encode())}
    content = path.read_bytes()
    entry = {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
    if name.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": entry["size"], "pointerSize": 134}
    return entry


def info(hub, body, query, kind, repo, revision="main"):
    folder = _branch_of(hub, repo, revision, kind)
    if not folder.is_dir():
        return 404, {"error": "no such repository"}
    sha = hub.commits[f"{kind}/{repo}/{folder.name.replace('__', '/')}"][-1]
    is_private = (hub.root / kind / repo / "visibility").read_text() == "private"
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    siblings = [{"rfilename": name} for name in names]
    facts = {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings, "gated": False}
    return 200, {"id": repo, "sha": sha, "private": is_private, **facts}


def resolve(hub, body, query, repo, revision, name, prefix=""):
    kind = (prefix or "models").rstrip("/")
    path = hub.branch(repo, kind=kind) / unquote(name)
    if not path.is_file():
        return 404, {"error": "Entry not found"}
    return 200, File(path.read_bytes(), hub.commits[f"{kind}/{repo}/main"][-1])


def paths_info(hub, body, query, kind, repo, revision):
    asked = parse_qs(body.decode()).get("paths", []) if b"{" not in body[:1] else []
    asked = asked or json.loads(body or b"{}").get("paths", [])
    folder = hub.branch(repo, kind=kind)
    found = [name for name in asked if (folder / name).is_file()]
    return 200, [_entry(folder, folder / name) for name in found]


def validate(hub, body, query):
    content = json.loads(body)["content"]
    try:
        metadata = yaml.safe_load(content.split("---")[1])
        errors = [] if metadata.get("license") else [{"message": "license is required"}]
    except (yaml.YAMLError, IndexError) as error:
        errors = [{"message": str(error)}]
    return (400 if errors else 200), {"errors": errors, "warnings": []}


def branch(hub, body, query, kind, repo, revision):
    folder = hub.branch(repo, unquote(revision), kind)
    if folder.exists():
        return 409, {"error": "branch exists"}
    shutil.copytree(hub.branch(repo, kind=kind), folder)
    hub.commits[f"{kind}/{repo}/{unquote(revision)}"] = list(hub.commits[f"{kind}/{repo}/main"])
    return 200, {}


def preupload(hub, body, query, kind, repo, revision):
    folder = hub.branch(repo, unquote(revision), kind)
    files = []
    for file in json.loads(body)["files"]:
        path = folder / file["path"]
        is_large = file["path"].endswith(LARGE)
        oid = None
        if path.is_file():
            data = path.read_bytes()
            oid = hashlib.sha256(data).hexdigest() if is_large else _git_oid(data)
        mode = "lfs" if is_large else "regular"
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return 200, {"files": files}


def batch(hub, body, query, kind=None, repo=None):
    objects = []
    for wanted in json.loads(body)["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True}
        if not (hub.root / "lfs" / wanted["oid"]).is_file():
            answer["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs-store/{wanted['oid']}"}}
        objects.append(answer)
    return 200, {"transfer": "basic", "objects": objects}


def put(hub, body, query, oid):
    with hub.lock:
        hub.num_puts += 1
        is_first = hub.num_puts == 1
    if hub.hold_put is not None and not is_first:
        hub.hold_put.wait(30)
    if hashlib.sha256(body).hexdigest() != oid:
        return 400, {"error": "content does not match its name"}
    (hub.root / "lfs" / oid).write_bytes(body)
    hub.put_started.set()
    return 200, {}


def xet_token(hub, body, query, kind, repo, revision):
    return 200, {"casUrl": f"{hub.endpoint}/cas", "accessToken": hub_xet.TOKEN, "exp": 2**32}


def xorb(hub, body, query, name):
    hub.put_started.set()
    return 200, {"was_inserted": hub_xet.store_xorb(hub.root, name, body)}


def shard(hub, body, query):
    try:
        hub_xet.store_files(hub.root, body)
    except ValueError as error:
        return 400, {"error": str(error)}
    return 200, {"result": 1}


def commit(hub, body, query, kind, repo, revision):
    lines = [json.loads(line) for line in body.splitlines()]
    target = unquote(revision)
    request = None
    if query.get("create_pr"):
        request = sum(key.startswith(f"{kind}/{repo}/refs/pr/") for key in hub.commits) + 1
        target = f"refs/pr/{request}"
        branch(hub, b"", {}, kind, repo, target)
    folder = hub.branch(repo, target, kind)
    for line in lines[1:]:
        path, value = folder / line["value"]["path"], line["value"]
        if line["key"] == "deletedFile":
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if line["key"] == "file":
            path.write_bytes(base64.b64decode(value["content"]))
        elif not (hub.root / "lfs" / value["oid"]).is_file():
            return 400, {"error": f"object {value['oid']} was never uploaded"}
        else:
            shutil.copyfile(hub.root / "lfs" / value["oid"], path)
    oid = hashlib.sha1(body).hexdigest()
    hub.commits[f"{kind}/{repo}/{target}"].append(oid)
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{hub.endpoint}/{repo}/commit/{oid}"}
    if request:
        answer["pullRequestUrl"] = f"{hub.endpoint}/{repo}/discussions/{request}"
    return 200, answer


def discussions(hub, body, query, kind, repo):
    numbers = [k.rsplit("/", 1)[1] for k in hub.commits if k.startswith(f"{kind}/{repo}/refs/pr/")]
    found = [
        {
            "num": int(number),
            "title": "Push with medllava",
            "status": "open",
            "author": {"name": "tester"},
            "isPullRequest": True,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "repo": {"name": repo, "type": kind.rstrip("s")},
        }
        for number in numbers
    ]
    return 200, {"discussions": found, "count": len(found), "start": 0}


def _git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_REPO = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_FILE = rf"/(?P<prefix>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/{_REVISION}/(?P<name>.+)"
_ROUTES = (
    ("GET", "/api/whoami-v2", whoami),
    ("PUT", f"{_REPO}/settings", settings),
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate),
    ("GET", f"{_REPO}/tree/{_REVISION}(?:/(?P<under>.+))?", tree),
    ("POST", f"{_REPO}/paths-info/{_REVISION}", paths_info),
    ("HEAD", _FILE, resolve),
    ("GET", _FILE, resolve),
    ("GET", f"{_REPO}/revision/{_REVISION}", info),
    ("GET", f"{_REPO}/discussions", discussions),
    ("GET", _REPO, info),
    ("POST", f"{_REPO}/branch/{_REVISION}", branch),
    ("POST", f"{_REPO}/preupload/{_REVISION}", preupload),
    ("POST", f"{_REPO}/commit/{_REVISION}", commit),
    ("POST", r"/(?:datasets/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", batch),
    ("PUT", "/lfs-store/(?P<oid>[0-9a-f]+)", put),
    ("GET", f"{_REPO}/xet-write-token/{_REVISION}", xet_token),
    ("POST", "/cas/v1/xorbs/default/(?P<name>[0-9a-f]+)", xorb),
    ("POST", "/cas/v1/shards", shard),
)
