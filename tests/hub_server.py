"""A Hugging Face Hub on the loopback interface, for tests of downloads and uploads: no network and no account.

It speaks as much of the Hub's protocol as `huggingface_hub` uses for model repositories, so that the real client can be
tested against it, in a process that is started with `HF_ENDPOINT` and `HF_HUB_DISABLE_XET=1`. As on the real Hub, large
files lie on a second host, to which the first one redirects, and that host wants no token. Everything that can go wrong
on the way is a `Fault`. Nothing depends on the time of day: the same calls give the same commits.
"""

import base64
import codecs
import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".h5", ".keras", ".npy", ".npz", ".onnx", ".zip")
REGULAR_LIMIT = 10 * 2**20  # what the Hub still takes as a regular file
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
DATE = "2024-01-01T00:00:00.000Z"
BODY_FAULTS = ("cut", "wrong_bytes", "slow")
HUB_HEADERS = ("etag", "x-repo-commit", "x-linked-etag", "x-linked-size")
# The same block that the Hub takes for the metadata of a README.md.
FRONT_MATTER = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")


@dataclasses.dataclass(frozen=True)
class Seen:
    """A request that came in. Its status is 0 for as long as, or if, nothing was answered."""

    host: str  # "hub" or "storage"
    method: str
    path: str  # with the query
    headers: Mapping[str, str]  # names in lower case
    status: int


@dataclasses.dataclass
class Fault:
    """What goes wrong, for requests that match.

    - `status`: `status`, `headers` and `body` are answered, and nothing is done.
    - `hang`: nothing happens for `seconds`, then the request is served. Closing the server ends it.
    - `cut`: the connection is closed after `after` bytes of the body (half of them by default), although Content-Length
      promised all. An answer without a body is not given at all. What the request asked for has been done by then.
    - `short`: as if the file had only `after` bytes (half of them by default), while all other headers are right.
    - `wrong_bytes`: the right length, but the byte in the middle is another.
    - `slow`: the body takes `seconds`.
    - `missing_headers`: those named in `headers` are left out; by default the ones by which a Hub is known.

    `cut`, `wrong_bytes` and `slow` are about bodies, so that they let HEAD requests pass if `method` does not say HEAD.
    The fault that was registered first wins.
    """

    kind: str
    host: str = "hub"
    method: str | None = None
    path: str = ""  # regular expression, searched for in the path with its query
    times: int | None = None  # None for always
    status: int = 500
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    after: int | None = None
    hits: int = dataclasses.field(default=0, init=False)  # how often it struck

    def strikes(self, host, method, path):
        if self.method is None and method == "HEAD" and self.kind in BODY_FAULTS:
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        return self.host == host and self.method in (None, method) and re.search(self.path, path) is not None

    def part(self, length):
        return length // 2 if self.after is None else min(self.after, length)


# --- what is kept ---


@dataclasses.dataclass(frozen=True)
class Entry:
    """One version of a file."""

    data: bytes
    lfs: bool

    @functools.cached_property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self):
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @functools.cached_property
    def oid(self):
        """What git calls the blob: of a large file it only knows the pointer."""
        blob = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


def is_lfs(path, size, sample):
    """Whether a file belongs into the large file storage, from its name, its size and its first 512 bytes."""
    if size == 0:
        return False
    try:
        # Incremental, since the sample may end in the midst of a character.
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return True
    return path.endswith(LFS_SUFFIXES) or size > REGULAR_LIMIT or b"\0" in sample


@dataclasses.dataclass
class Repo:
    """A model repository: every commit as a whole tree, and one branch."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Entry]] = dataclasses.field(default_factory=dict)
    refs: dict[str, str] = dataclasses.field(default_factory=dict)  # main and the tags

    def commit(self, tree, title):
        listing = "".join(f"{path}\0{tree[path].oid}\n" for path in sorted(tree))
        oid = hashlib.sha1(f"{self.refs.get('main')}\n{title}\n{listing}".encode()).hexdigest()
        self.commits[oid] = tree
        self.refs["main"] = oid
        return oid

    def at(self, revision):
        """The commit that a branch, tag or commit means, and its tree."""
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, self.commits[oid]


# --- requests and answers ---


@dataclasses.dataclass
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def verb(self):
        return "GET" if self.method == "HEAD" else self.method

    @property
    def route(self):
        return urlsplit(self.path).path

    @property
    def query(self):
        return {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            raise Refusal(400, "the body is not JSON") from None


@dataclasses.dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def json_answer(data, status=200, headers=None):
    return Answer(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})


class Refusal(Exception):
    """An error, said both in the headers, from which the client chooses its exception, and in the body."""

    def __init__(self, status, message, code=None, headers=None):
        super().__init__(message)
        in_header = message.replace("\n", " ").encode("ascii", "replace").decode()
        headers = {"X-Error-Message": in_header, **(headers or {})}
        if code is not None:
            headers["X-Error-Code"] = code
        self.answer = json_answer({"error": message}, status, headers)


def etag_of(part):
    return f'"{hashlib.md5(part).hexdigest()}"'


def content(request, data, etag, headers):
    """A file, or the part of it that the request asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "ETag": f'"{etag}"', **headers}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if asked is None or not any(asked.groups()):
        return Answer(200, data, headers)
    first, last = asked.groups()
    size = len(data)
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        raise Refusal(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return Answer(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})


def card_problems(content):
    """Errors and warnings about the metadata of a README.md."""
    import yaml  # a dependency of huggingface_hub, hence there wherever a test uses this server

    block = FRONT_MATTER.match(content)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(block[2])
    except yaml.YAMLError as error:
        return [f"YAML: {error}"], []
    return ([], []) if metadata is None or isinstance(metadata, dict) else (["the metadata must be a mapping"], [])


def file_json(path, entry):
    data = {"type": "file", "path": path, "oid": entry.oid, "size": len(entry.data)}
    if entry.lfs:
        data["lfs"] = {"oid": entry.sha256, "size": len(entry.data), "pointerSize": len(entry.pointer)}
    return data


def tree_json(tree):
    """All files and folders of a tree, in the order of their paths."""
    folders = {"/".join(path.split("/")[:depth]) for path in tree for depth in range(1, path.count("/") + 1)}
    rows = [{"type": "directory", "path": path, "oid": Entry(path.encode(), False).oid, "size": 0} for path in folders]
    return sorted(rows + [file_json(*item) for item in tree.items()], key=lambda row: row["path"])


# --- the two hosts ---

REPO = r"(?P<repo>[^/]+/[^/]+)"
MODEL = f"/api/models/{REPO}"
REVISION = r"(?P<revision>[^/]+)"


class HubSite:
    """The Hub itself: repositories, their files, and what a commit needs."""

    name = "hub"
    routes = (
        ("GET", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
        ("GET", f"{MODEL}(/revision/{REVISION})?", "info"),
        ("GET", f"{MODEL}/tree/{REVISION}(/(?P<path>.+))?", "tree"),
        ("POST", f"{MODEL}/paths-info/{REVISION}", "paths_info"),
        ("GET", "/api/whoami-v2", "whoami"),
        ("POST", "/api/repos/create", "create"),
        ("POST", "/api/validate-yaml", "validate_yaml"),
        ("POST", f"{MODEL}/preupload/{REVISION}", "preupload"),
        ("POST", f"/{REPO}.git/info/lfs/objects/batch", "batch"),
        ("POST", f"/{REPO}.git/info/lfs/objects/verify", "verify"),
        ("POST", "/api/complete_multipart", "complete"),
        ("POST", f"{MODEL}/commit/{REVISION}", "commit"),
    )

    def __init__(self, hub):
        self.hub = hub

    def answer(self, request):
        self.role(request)
        for verb, pattern, name in self.routes:
            if verb == request.verb and (match := re.fullmatch(pattern, request.route)):
                groups = {key: unquote(value) for key, value in match.groupdict().items() if value}
                return getattr(self, name)(request, **groups)
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def role(self, request):
        header = request.headers.get("authorization")
        if header is None:
            return None
        roles = {f"Bearer {self.hub.token}": "write", f"Bearer {self.hub.read_token}": "read"}
        if header not in roles:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return roles[header]

    def repo(self, request, name, write=False):
        """The repository, if it is there for whoever asks."""
        role = self.role(request)
        repo = self.hub.repos.get(name)
        if role is None and (write or repo is None or repo.private):
            # Without a token, what is private looks like what does not exist. The code is always sent: the client takes
            # a mere 401 for a missing repository only if the endpoint is https.
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if repo is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and role != "write":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def resolve(self, request, repo, revision, path):
        kept = self.repo(request, repo)
        role = self.role(request)
        if kept.gated and role != "write":
            # What the repository is about, and the names of its files, the Hub tells everyone.
            why = "you are not in the authorized list" if role else "you must be authenticated"
            raise Refusal(403 if role else 401, f"Access to model {repo} is restricted and {why}.", "GatedRepo")
        commit, tree = kept.at(revision)
        headers = {"X-Repo-Commit": commit}
        if path not in tree:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        entry = tree[path]
        if not entry.lfs:
            return content(request, entry.data, entry.oid, headers)
        shown_as = quote(f'inline; filename="{path.rpartition("/")[2]}"', safe="")
        location = self.hub.signed("GET", f"/{repo}/{entry.sha256}?response-content-disposition={shown_as}")
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(len(entry.data)), "Location": location}
        return Answer(302, f"Found. Redirecting to {location}".encode(), headers)

    def info(self, request, repo, revision="main"):
        kept = self.repo(request, repo)
        commit, tree = kept.at(revision)
        about = {"id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": commit, "lastModified": DATE}
        about |= {"private": kept.private, "gated": "auto" if kept.gated else False, "disabled": False, "tags": []}
        return json_answer({**about, "createdAt": DATE, "siblings": [{"rfilename": path} for path in sorted(tree)]})

    def tree(self, request, repo, revision, path=""):
        commit, tree = self.repo(request, repo).at(revision)
        folder = f"{path}/" if path else ""
        rows = [row for row in tree_json(tree) if row["path"].startswith(folder)]
        if folder and not rows:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound", {"X-Repo-Commit": commit})
        if request.query.get("recursive", "").lower() != "true":
            rows = [row for row in rows if "/" not in row["path"].removeprefix(folder)]
        return json_answer(rows)

    def paths_info(self, request, repo, revision):
        _, tree = self.repo(request, repo).at(revision)
        is_form = "form" in request.headers.get("content-type", "")
        paths = (parse_qs(request.body.decode()) if is_form else request.json()).get("paths", [])
        return json_answer([row for row in tree_json(tree) if row["path"] in paths])

    def whoami(self, request):
        role = self.role(request)
        if role is None:
            raise Refusal(401, "Invalid username or password.")
        name = "writer" if role == "write" else "reader"
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return json_answer({"type": "user", "name": name, "fullname": name, "orgs": [], "auth": auth})

    def create(self, request):
        asked = request.json()
        namespace = asked.get("organization") or "writer"
        repo = f"{namespace}/{asked['name']}"
        role = self.role(request)
        if role is None:
            raise Refusal(401, "Invalid username or password.")
        if role != "write":
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        url = {"url": f"{self.hub.endpoint}/{repo}", "name": repo}
        if repo in self.hub.repos:
            # The client reads the address from this answer too, if the repository may exist.
            return json_answer({"error": "You already created this model repo", **url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.add_repo(repo, {".gitattributes": GITATTRIBUTES}, private=private)
        return json_answer(url)

    def validate_yaml(self, request):
        problems = card_problems(request.json()["content"])
        errors, warnings = ([{"message": problem} for problem in kind] for kind in problems)
        return json_answer({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def preupload(self, request, repo, revision):
        _, tree = self.repo(request, repo, write=True).at(revision)
        rows = []
        for file in request.json()["files"]:
            lfs = is_lfs(file["path"], file["size"], base64.b64decode(file["sample"]))
            row = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if file["path"] in tree:
                # What the client compares with, to leave out what has not changed.
                entry = tree[file["path"]]
                row["oid"] = entry.sha256 if entry.lfs else entry.oid
            rows.append(row)
        return json_answer({"files": rows, "commitOid": self.hub.repos[repo].refs["main"]})

    def batch(self, request, repo):
        self.repo(request, repo, write=True)
        asked = request.json()
        rows = []
        for item in asked["objects"]:
            rows.append({**item, "authenticated": True})
            if item["oid"] not in self.hub.objects:  # or else, without actions, there is nothing to upload
                in_parts = item["size"] > self.hub.multipart_chunk and "multipart" in asked["transfers"]
                upload = (self.parts_action if in_parts else self.basic_action)(repo, **item)
                verify = {"href": f"{self.hub.endpoint}/{repo}.git/info/lfs/objects/verify"}
                rows[-1]["actions"] = {"upload": upload, "verify": verify}
        return json_answer({"transfer": "basic", "objects": rows})

    def basic_action(self, repo, oid, size):
        return {"href": self.hub.signed("PUT", f"/{repo}/{oid}?x-id=PutObject")}

    def parts_action(self, repo, oid, size):
        """An address for each part, among what would otherwise be headers, and one to say that all have come."""
        chunk, name = self.hub.multipart_chunk, f"upload{len(self.hub.parts)}"
        self.hub.parts[name] = {}
        header = {"chunk_size": str(chunk)}
        for number in range(1, -(-size // chunk) + 1):
            header[str(number)] = self.hub.signed("PUT", f"/{repo}/{oid}?partNumber={number}&uploadId={name}")
        complete = f"/api/complete_multipart?uploadId={name}"
        return {"href": self.hub.signed("POST", complete, self.hub.endpoint), "header": header}

    def complete(self, request):
        self.hub.check_signature(request)
        asked, parts = request.json(), self.hub.parts[request.query["uploadId"]]
        etags = [{"partNumber": number, "etag": etag_of(parts[number])} for number in sorted(parts)]
        if not parts or asked["parts"] != etags:
            raise Refusal(400, "One or more of the specified parts could not be found.")
        self.hub.uploads[asked["oid"]] = b"".join(parts[number] for number in sorted(parts))
        return json_answer({"success": True})

    def verify(self, request, repo):
        self.repo(request, repo, write=True)
        asked = request.json()
        self.stored(asked["oid"], asked["size"])
        return json_answer({"success": True})

    def stored(self, oid, size=None, path=""):
        """The bytes of an uploaded object, once they are what was announced."""
        data = self.hub.uploads.pop(oid, None)
        if data is not None and hashlib.sha256(data).hexdigest() == oid:
            self.hub.objects[oid] = data
        if oid not in self.hub.objects or size not in (None, len(self.hub.objects[oid])):
            message = "an LFS pointer pointed to a file that does not exist or has another size or sha256"
            raise Refusal(400, f"Your push was rejected because {message}. Offending file: {path or oid}")
        return self.hub.objects[oid]

    def commit(self, request, repo, revision):
        kept = self.repo(request, repo, write=True)
        if "create_pr" in request.query or revision != "main":
            raise Refusal(404, f"Invalid rev id: refs/heads/{revision}", "RevisionNotFound")
        tree, header = dict(kept.at("main")[1]), {}
        for line in request.body.splitlines():
            step = json.loads(line)
            key, value = step["key"], step["value"]
            path = value.get("path")
            if key == "header":
                header = value
            elif key == "file":
                tree[path] = Entry(base64.b64decode(value["content"]), lfs=False)
                if path == "README.md" and (errors := card_problems(tree[path].data.decode())[0]):
                    raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
            elif key == "lfsFile":
                tree[path] = Entry(self.stored(value["oid"], value.get("size"), path), lfs=True)
            elif key == "deletedFile":
                if tree.pop(path, None) is None:
                    raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            else:
                raise Refusal(400, f"unknown operation {key}")
        if not header.get("summary"):
            raise Refusal(400, "a commit needs a summary")
        if header.get("parentCommit", kept.refs["main"]) != kept.refs["main"]:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        oid = kept.commit(tree, header["summary"])
        url = f"{self.hub.endpoint}/{repo}/commit/{oid}"
        return json_answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


class StorageSite:
    """Where large files lie: every address is signed, and a token is refused, since it should never come here."""

    name = "storage"

    def __init__(self, hub):
        self.hub = hub

    def answer(self, request):
        if "authorization" in request.headers:
            raise Refusal(400, "Only one auth mechanism allowed")
        self.hub.check_signature(request)
        oid = request.route.rpartition("/")[2]
        if request.verb == "GET":
            if oid not in self.hub.objects:
                raise Refusal(404, "NoSuchKey")
            return content(request, self.hub.objects[oid], oid, {})
        if "partNumber" in request.query:
            self.hub.parts[request.query["uploadId"]][int(request.query["partNumber"])] = request.body
        else:
            self.hub.uploads[oid] = request.body
        return Answer(200, b"", {"ETag": etag_of(request.body)})


# --- the sockets ---


class Server(ThreadingHTTPServer):
    """A server that knows its connections: idle ones have to be ended, or their threads would outlive it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub, site):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        self.site = site
        self.connections = {}
        self.loop = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.loop.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def server_bind(self):
        # Without the look-up of this machine's name that HTTPServer does: it can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def process_request(self, request, client_address):
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        thread.start()
        self.connections = {one: its for one, its in [*self.connections.items(), (thread, request)] if one.is_alive()}

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self):
        self.shutdown()
        self.loop.join()
        for connection in self.connections.values():
            with contextlib.suppress(OSError):  # it may be closed already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.connections:
            thread.join(timeout=5)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, lets the site answer them, and does what a fault says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart; together with delayed ACKs that costs 40 ms

    def serve(self):
        hub, site = self.server.hub, self.server.site
        path = re.sub(r"^http://[^/]+", "", self.path)  # a client takes it for its proxy
        request = Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}, self.read_body())
        seen, fault = hub.arrived(site.name, request)
        kind = fault.kind if fault else ""
        if kind == "hang" and hub.closing.wait(fault.seconds):
            self.close_connection = True
            return
        answer = Answer(fault.status, fault.body, dict(fault.headers)) if kind == "status" else self.answer(request)
        if kind == "cut" and not (answer.body and self.command != "HEAD"):
            self.close_connection = True
            return
        hub.answered(seen, answer.status)
        self.send(answer, fault, kind)

    do_HEAD = do_GET = do_POST = do_PUT = do_DELETE = serve

    def read_body(self):
        size = int(self.headers.get("Content-Length", 0))  # the client always says it
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the client went away in the midst of its request")
        return body

    def answer(self, request):
        try:
            with self.server.hub.lock:
                return self.server.site.answer(request)
        except Refusal as refusal:
            return refusal.answer
        except Exception:
            # Not a 500, which the client would ask for again, five times and for half a minute.
            return Answer(501, traceback.format_exc().encode(), {"Content-Type": "text/plain"})

    def send(self, answer, fault, kind):
        body, headers = answer.body, dict(answer.headers)
        if kind == "short":
            body = body[: fault.part(len(body))]
        elif kind == "wrong_bytes" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]
        headers["Content-Length"] = str(len(body))
        if kind == "missing_headers":
            left_out = [name.lower() for name in fault.headers] or HUB_HEADERS
            headers = {name: value for name, value in headers.items() if name.lower() not in left_out}
        if "Content-Length" not in headers or kind == "cut":
            self.close_connection = True
        self.send_response_only(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = memoryview(body)[: fault.part(len(body)) if kind == "cut" else None]
        step = max(1, len(body) // 20 if kind == "slow" else len(body))
        starts = range(0, len(body), step)
        for start in starts:
            if kind == "slow" and self.server.hub.closing.wait(fault.seconds / len(starts)):
                return
            self.wfile.write(body[start : start + step])


class HubServer:
    """A Hub and its storage, from entering the context to leaving it.

    `requests` lists what came in, in this order. `token` may write and sees everything; `read_token` sees private
    repositories, is on the list of no gated one, and may not write. Files larger than `multipart_chunk` are uploaded in
    parts of this size.

    Example:
        with HubServer() as hub:
            commit = hub.add_repo("org/name", {"model.safetensors": b"..."})
            hub.fail(Fault("cut", host="storage", times=1))
    """

    token = "hf_write"
    read_token = "hf_read"

    def __init__(self, multipart_chunk=5 * 2**20):
        self.multipart_chunk = multipart_chunk
        self.endpoint = self.storage = ""
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # of the large file storage, by sha256
        self.uploads: dict[str, bytes] = {}  # what came in under this sha256 and has not been looked at
        self.parts: dict[str, dict[int, bytes]] = {}  # of multipart uploads, by the name of the upload
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.servers: list[Server] = []

    def __enter__(self):
        self.servers = [Server(self, HubSite(self)), Server(self, StorageSite(self))]
        self.endpoint, self.storage = (server.url for server in self.servers)
        # Another name of the same machine: older clients tell hosts apart by their names, not by their ports.
        self.storage = self.storage.replace("127.0.0.1", "localhost")
        return self

    def __exit__(self, *error):
        self.closing.set()
        for server in self.servers:
            server.close()

    def add_repo(self, repo: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False) -> str:
        """Make a repository with these files, and return its commit."""
        with self.lock:
            self.repos[repo] = Repo(private, gated)
            return self.repos[repo].commit(self.entries(files), "initial commit")

    def commit(self, repo: str, files: Mapping[str, bytes]) -> str:
        """Add or replace files in a new commit on main, and return it."""
        with self.lock:
            kept = self.repos[repo]
            return kept.commit({**kept.at("main")[1], **self.entries(files)}, "update")

    def entries(self, files):
        made = {path: Entry(data, is_lfs(path, len(data), data[:512])) for path, data in files.items()}
        self.objects |= {entry.sha256: entry.data for entry in made.values() if entry.lfs}
        return made

    def tag(self, repo: str, name: str, commit: str) -> None:
        """Give a commit a name."""
        with self.lock:
            self.repos[repo].refs[name], _ = self.repos[repo].at(commit)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """All files of a repository, large ones too."""
        with self.lock:
            return {path: entry.data for path, entry in self.repos[repo].at(revision)[1].items()}

    def fail(self, fault: Fault) -> Fault:
        """Let this go wrong from now on."""
        with self.lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Take all faults away."""
        with self.lock:
            self.faults.clear()

    def count(self, *, host: str | None = None, method: str | None = None, path: str = "") -> int:
        """How many requests came in that match; `path` is a regular expression as in a fault."""
        with self.lock:
            seen = list(self.requests)
        return sum(
            host in (None, one.host) and method in (None, one.method) and re.search(path, one.path) is not None
            for one in seen
        )

    # What the sites and the handlers need.

    def arrived(self, host, request):
        """Note a request: what was noted, and the fault that strikes it."""
        seen = Seen(host, request.method, request.path, request.headers, 0)
        with self.lock:
            self.requests.append(seen)
            fault = next((one for one in self.faults if one.strikes(host, request.method, request.path)), None)
            if fault is not None:
                fault.hits += 1
        return seen, fault

    def answered(self, seen, status):
        with self.lock:
            # A test may have cleared the list while this request was under way.
            self.requests[:] = [
                dataclasses.replace(one, status=status) if one is seen else one for one in self.requests
            ]

    def signed(self, verb, path, site=None):
        """The whole address of a path with a query that only this server can have made."""
        return f"{site or self.storage}{path}&X-Amz-Signature={self.signature(verb, path)}"

    def signature(self, verb, path):
        return hashlib.sha256(f"secret {verb} {unquote(path)}".encode()).hexdigest()

    def check_signature(self, request):
        path, _, signature = request.path.rpartition("&X-Amz-Signature=")
        if signature != self.signature(request.verb, path):
            raise Refusal(403, "SignatureDoesNotMatch")
