"""A stand-in for the Hugging Face hub on this machine: repositories, commits, tokens and refusals.

`hub_stand_in(folder)` starts it and sends `huggingface_hub` there, with a cache of its own:

    with hub_stand_in(tmp_path) as hub:
        hub.log_in("user")
        push_experts(model, "user/name")
        hub.requests  # what was asked for

It answers what `huggingface_hub` 2.4 asks for when it creates repositories and branches, checks a
README's metadata, commits files (those of `LFS` by the LFS protocol) and downloads snapshots.
Refusals have the status and the headers that the hub sends.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import yaml

LFS = ("*.safetensors", "*.bin")  # patterns of the files that are stored by the LFS protocol
REFUSED_LICENCES = ("gpl", "cc")  # examples of what the hub does not take for a licence's id

RIGHTS = ("write", "read")


@dataclass
class Repository:
    """A repository: its commits, and the branches that point to them.

    Attributes:
        private: Whether its owner alone may see it.
        commits: Content of each file by name, by commit; oldest first.
        branches: Commit by name.
        messages: First line of each commit's message, oldest first.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Add a commit with these files to a branch, and return its name."""
        digest = hashlib.sha1(f"{len(self.commits)} {branch} {message}".encode())
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        commit = digest.hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        self.messages.append(message)
        return commit

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch or commit, None where there is none."""
        revision = self.branches.get(revision, revision)
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """What the stand-in holds.

    Attributes:
        address: "http://127.0.0.1:<port>".
        home: Its cache and its token, the folder HF_HOME.
        repositories: By id.
        tokens: (user, "write" or "read") by token.
        objects: Content of files uploaded by the LFS protocol, by SHA-256.
        requests: ("GET", path) of each request, in order.
    """

    address: str
    home: Path
    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def make_token(self, user: str, right: str = "write") -> str:
        """Return a token of a user; its right is "write" or "read"."""
        assert right in RIGHTS
        token = f"hf_{user}_{right}"
        self.tokens[token] = (user, right)
        return token

    def log_in(self, user: str, right: str = "write") -> str:
        """Make a token and keep it where `huggingface_hub` looks for one; return it."""
        token = self.make_token(user, right)
        (self.home / "token").write_text(token)
        return token

    def log_out(self) -> None:
        """Forget the kept token."""
        (self.home / "token").unlink(missing_ok=True)

    def add(self, repository: str, files: dict[str, bytes], **options) -> str:
        """Add a public repository, or a commit on its main branch, and return the commit."""
        found = self.repositories.setdefault(repository, Repository(**options))
        return found.commit("main", files, "added")

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a repository by name."""
        found = self.repositories[repository]
        return found.commits[found.find(revision)]

    def downloads(self) -> list[str]:
        """Return the names of the files that were downloaded, in order of the alphabet."""
        paths = [path for method, path in self.requests if method == "GET" and "/resolve/" in path]
        return sorted(path.rsplit("/", 1)[1] for path in paths)

    def environment(self) -> dict[str, str]:
        """Return the variables that send another process to this stand-in."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class Refusal(Exception):
    """An answer other than success.

    Args:
        status: Of HTTP.
        code: Header X-Error-Code; "": none.
        message: Header X-Error-Message, and the body's "error".
    """

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Handler(BaseHTTPRequestHandler):
    """Answers the requests."""

    hub: Hub  # set by `hub_stand_in`
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Print nothing."""

    # ---- requests and answers

    def do_GET(self):
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_request(self):
        """Find the answer by method and path, and send it."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.content = self.read_content()
        try:
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    answer(self, **match.groupdict())
                    return
            raise Refusal(404, "", f"the stand-in does not know {self.command} {path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send_json({"error": refusal.message}, refusal.status, headers)

    def read_content(self) -> bytes:
        """Return the content of the request, sent at once or in chunks."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send_json(self, value, status: int = 200, headers: dict[str, str] | None = None):
        """Answer with a JSON value."""
        content = json.dumps(value).encode()
        self.send_content(content, status, {"Content-Type": "application/json", **(headers or {})})

    def send_content(self, content: bytes, status: int, headers: dict[str, str]):
        """Answer with bytes; to HEAD with their headers alone."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # ---- who may do what

    def who(self) -> tuple[str, str] | None:
        """Return user and right of the request's token; None without a token."""
        header = self.headers.get("Authorization")
        if not header:
            return None
        token = header.removeprefix("Bearer ")
        if token not in self.hub.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def readable(self, repository: str) -> Repository:
        """Return a repository that the request may read."""
        user, _ = self.who() or (None, None)
        found = self.hub.repositories.get(repository)
        owner = repository.split("/")[0]
        if found is None or (found.private and user != owner):
            if user is None:  # the hub does not say whether there is a private one
                raise Refusal(401, "RepoNotFound", "Invalid username or password.")
            raise Refusal(404, "RepoNotFound", "Repository not found")
        return found

    def writable(self, repository: str) -> Repository:
        """Return a repository that the request may write to."""
        found = self.readable(repository)
        self.check_writer(repository.split("/")[0])
        return found

    def check_writer(self, owner: str):
        """Refuse a request that may not write to what is this user's."""
        who = self.who()
        if who is None:
            raise Refusal(401, "", "Invalid username or password.")
        if who != (owner, "write"):
            raise Refusal(
                403,
                "",
                f'You don\'t have the rights to create a model under the namespace "{owner}"',
            )

    def commit_of(self, repository: Repository, revision: str) -> str:
        """Return the commit of a revision."""
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # ---- reading

    def repository_facts(self, repository: str, revision: str | None = None):
        """Answer with a repository's id and commit."""
        found = self.readable(repository)
        commit = self.commit_of(found, revision or "main")
        siblings = [{"rfilename": name} for name in found.commits[commit]]
        self.send_json({"id": repository, "sha": commit, "siblings": siblings})

    def tree(self, repository: str, revision: str):
        """Answer with the files of a revision."""
        found = self.readable(repository)
        files = found.commits[self.commit_of(found, revision)]
        self.send_json([entry(name, content) for name, content in files.items()])

    def file(self, repository: str, revision: str, name: str):
        """Answer with a file's content."""
        found = self.readable(repository)
        commit = self.commit_of(found, revision)
        if name not in found.commits[commit]:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content = found.commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(content)}"'}
        if is_lfs(name):
            headers["X-Linked-Etag"] = f'"{sha256(content)}"'
            headers["X-Linked-Size"] = str(len(content))
        self.send_content(content, 200, headers)

    # ---- writing

    def create_repository(self):
        """Create a repository with a first commit, as the hub does."""
        asked = json.loads(self.content)
        user, _ = self.who() or (None, None)
        owner = asked.get("organization") or user
        self.check_writer(owner)
        repository = f"{owner}/{asked['name']}"
        address = f"{self.hub.address}/{repository}"
        if repository in self.hub.repositories:
            message = "You already created this model repo"
            self.send_json({"url": address, "error": message}, 409, {"X-Error-Message": message})
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.add(repository, {".gitattributes": b""}, private=private)
        self.send_json({"url": address})

    def create_branch(self, repository: str, branch: str):
        """Create a branch that begins at the main branch."""
        found = self.writable(repository)
        if branch in found.branches:
            raise Refusal(409, "", "Reference already exists")
        found.branches[branch] = found.branches["main"]
        self.send_json({})

    def check_metadata(self):
        """Answer whether a README's metadata can be read, and its licence and base model are."""
        text = json.loads(self.content)["content"]
        errors = metadata_errors(text)
        status = 400 if errors else 200
        messages = [{"message": message} for message in errors]
        self.send_json({"errors": messages, "warnings": []}, status)

    def upload_modes(self, repository: str, revision: str):
        """Answer which files are uploaded by the LFS protocol."""
        found = self.writable(repository)
        there = found.commits[self.commit_of(found, revision)]
        answers = []
        for file in json.loads(self.content)["files"]:
            name = file["path"]
            answer = {"path": name, "uploadMode": "regular", "shouldIgnore": False}
            if is_lfs(name):
                answer["uploadMode"] = "lfs"
            if name in there:
                content = there[name]
                answer["oid"] = sha256(content) if is_lfs(name) else git_hash(content)
            answers.append(answer)
        self.send_json({"files": answers})

    def lfs_batch(self, repository: str):
        """Answer where files are uploaded to."""
        self.writable(repository)
        objects = []
        for wanted in json.loads(self.content)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{wanted['oid']}"}}
            objects.append(answer)
        self.send_json({"objects": objects, "transfer": "basic"})

    def lfs_upload(self, oid: str):
        """Keep a file's content."""
        if sha256(self.content) != oid:
            raise Refusal(400, "", "the content has another hash")
        self.hub.objects[oid] = self.content
        self.send_json({})

    def commit(self, repository: str, revision: str):
        """Make a commit of what is uploaded."""
        found = self.writable(repository)
        files = dict(found.commits[self.commit_of(found, revision)])
        message = ""
        for line in self.content.splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                message = value["summary"]
            elif part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif part["key"] == "deletedFile":
                del files[value["path"]]
        commit = found.commit(revision, files, message)
        address = f"{self.hub.address}/{repository}/commit/{commit}"
        self.send_json({"success": True, "commitOid": commit, "commitUrl": address})


NAME = r"(?P<repository>[^/]+/[^/]+)"
API = f"/api/models/{NAME}"

# (methods, pattern of the path, answer)
ROUTES = [
    ("GET", f"{API}", Handler.repository_facts),
    ("GET", f"{API}/revision/(?P<revision>.+)", Handler.repository_facts),
    ("GET", f"{API}/tree/(?P<revision>[^/]+)", Handler.tree),
    ("GET HEAD", f"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.file),
    ("POST", "/api/repos/create", Handler.create_repository),
    ("POST", f"{API}/branch/(?P<branch>.+)", Handler.create_branch),
    ("POST", "/api/validate-yaml", Handler.check_metadata),
    ("POST", f"{API}/preupload/(?P<revision>.+)", Handler.upload_modes),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]+)", Handler.lfs_upload),
    ("POST", f"{API}/commit/(?P<revision>.+)", Handler.commit),
]


# ---- files


def is_lfs(name: str) -> bool:
    """Return whether a file is stored by the LFS protocol."""
    return any(fnmatch(name, pattern) for pattern in LFS)


def sha256(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    """Return git's hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(name: str, content: bytes) -> dict:
    """Return a file's line in the list of a revision's files."""
    line = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
    if is_lfs(name):
        line["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return line


def metadata_errors(text: str) -> list[str]:
    """Return what the hub would not accept in a README's metadata, a few of its rules."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not match:
        return []
    metadata = yaml.safe_load(match[1])
    errors = []
    if metadata.get("license") in REFUSED_LICENCES:
        errors.append('"license" must be one of [apache-2.0, mit, cc-by-4.0, ...]')
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.get("base_model", "a/model")):
        errors.append('"base_model" must be the id of a model')
    return errors


# ---- start and stop


@contextmanager
def hub_stand_in(folder: Path) -> Iterator[Hub]:
    """Run a stand-in for the length of the block, and send `huggingface_hub` there.

    Args:
        folder: For the cache and the token; HF_HOME is `<folder>/hf-home`.

    Yields:
        What the stand-in holds; nobody is logged in.
    """
    handler = type("HandlerOfOneHub", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}", Path(folder) / "hf-home")
    handler.hub = hub
    hub.home.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            send_there(patch, hub.address, hub.home)
            yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send_there(patch: pytest.MonkeyPatch, address: str, home: Path):
    """Set the hub's address, and a cache and a token file of its own.

    `huggingface_hub` reads the environment when it is imported, so its constants are set.
    """
    constants = huggingface_hub.constants
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        patch.delenv(name, raising=False)
    patch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(huggingface_hub.hf_api.api, "endpoint", address)  # made at import
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)


@contextmanager
def no_hub(folder: Path) -> Iterator[None]:
    """Send `huggingface_hub` to an address where nobody answers, with an empty cache.

    It tries five times as always, and does not wait in between.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None)
        )
        send_there(patch, "http://127.0.0.1:9", Path(folder) / "hf-home-without-network")
        yield
