"""A Hugging Face Hub on the loopback interface: as much of the API as the libraries ask for."""

import base64
import gzip
import hashlib
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
from pyarrow import parquet

Kind = Literal["datasets", "models"]
Row = Mapping[str, Any]

HH_PARTS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
LAYOUTS: dict[str, dict[str, list[str]]] = {
    "OpenAssistant/oasst1": {
        "train": ["data/train-00000-of-00001-b42a775f407cee45.parquet"],
        "validation": ["data/validation-00000-of-00001-134b8fd0c89408b6.parquet"],
    },
    "tatsu-lab/alpaca": {"train": ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"]},
    "trl-lib/ultrafeedback_binarized": {
        split: [f"data/{split}-00000-of-00001.parquet"] for split in ("train", "test")
    },
    "HuggingFaceH4/ultrafeedback_binarized": {
        f"{split}_{kind}": [f"data/{split}_{kind}-00000-of-00001.parquet"]
        for kind in ("prefs", "sft", "gen")
        for split in ("train", "test")
    },
    "Anthropic/hh-rlhf": {
        split: [f"{part}/{split}.jsonl.gz" for part in HH_PARTS] for split in ("train", "test")
    },
}
"""Where the files of well-known data sets stand in their repositories, by split."""

MISSING = "RepoNotFound", "Repository not found"
GATED = "GatedRepo", "Access to this repository is restricted"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong when a path that ends with `suffix` is asked for; "" is every path."""

    suffix: str = ".parquet"
    status: int | None = None
    """Is answered in place of the content."""
    cut: int | None = None
    """The connection closes where this byte of the file would come."""
    seconds: float = 0.0
    """Pass before the answer."""


class Hub:
    """Repositories in memory and the server that hands them out. Close it when done."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[Kind, str], dict[str, bytes]] = {}
        self.gated: set[tuple[Kind, str]] = set()
        self.private: set[tuple[Kind, str]] = set()
        """Repositories that only a user sees."""
        self.users: dict[str, str] = {}
        """Names of those who may write, by their tokens."""
        self.blobs: dict[str, bytes] = {}
        """Large files that were sent and not committed yet, by SHA-256."""
        self.faults: dict[str, Fault] = {}
        """By the name of the repository."""
        self.requests: list[str] = []
        """Each with the range that it asks for."""
        hub = self

        class Handler(_Handler):
            repositories = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add_dataset(self, name: str, files: Mapping[str, Path]) -> None:
        """Serve a data set: paths in its repository to files on disk."""
        contents = {path: file.read_bytes() for path, file in files.items()}
        self.repositories["datasets", name] = contents

    def add_splits(self, name: str, files: Mapping[str, Sequence[Row]], readme: str = "") -> None:
        """Serve rows as the files of a data set: Parquet, or what the path's suffix says."""
        contents = {path: table_bytes(path, rows) for path, rows in files.items()}
        if readme:
            contents["README.md"] = readme.encode()
        self.repositories["datasets", name] = contents

    def add_known(self, name: str, splits: Mapping[str, Sequence[Row]]) -> None:
        """Serve rows by split as one of the `LAYOUTS`, a split's rows dealt out to its files."""
        layout = LAYOUTS[name]
        files = {
            path: splits[split][number :: len(paths)]
            for split, paths in layout.items()
            for number, path in enumerate(paths)
        }
        # This one has no configuration in its README.
        readme = "" if name == "Anthropic/hh-rlhf" else card(layout, splits)
        self.add_splits(name, files, readme)

    def add_model(self, name: str, folder: Path) -> None:
        """Serve a model: every file of a folder."""
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        self.repositories["models", name] = {path: p.read_bytes() for path, p in files.items()}

    def add_gated(self, name: str, kind: Kind = "datasets") -> None:
        """Know a repository by name and refuse its files."""
        self.repositories[kind, name] = {}
        self.gated.add((kind, name))

    def env(self, folder: Path) -> dict[str, str]:
        """Return the environment of a process that is to use this Hub, its caches in `folder`."""
        return hub_environment(self.url, folder)

    def revision(self, kind: Kind, name: str) -> str:
        """Return the commit of a repository: a hash of what is in it."""
        digest = hashlib.sha1()
        for path, content in sorted(self.repositories[kind, name].items()):
            digest.update(path.encode() + b"\0" + hashlib.sha1(content).digest())
        return digest.hexdigest()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def card(layout: Mapping[str, Sequence[str]], splits: Mapping[str, Sequence[Row]]) -> str:
    """Return a README whose head says where the splits are and how many rows they have."""
    files = [{"split": split, "path": list(paths)} for split, paths in layout.items()]
    counts = [
        {"name": split, "num_bytes": 0, "num_examples": len(rows)} for split, rows in splits.items()
    ]
    head = {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"splits": counts},
    }
    return f"---\n{json.dumps(head)}\n---\n"  # JSON is YAML


def table_bytes(path: str, rows: Sequence[Row]) -> bytes:
    """Return rows as the bytes of a Parquet file, or of JSON Lines, packed if the path says so."""
    if path.endswith(".parquet"):
        table = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(list(rows)), table)
        return table.getvalue()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(lines, mtime=0) if path.endswith(".gz") else lines


def hub_environment(url: str, folder: Path) -> dict[str, str]:
    """Return the environment of a process whose Hub is at `url`, its caches in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **kept,
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


class _Handler(BaseHTTPRequestHandler):
    repositories: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        asked = f"{self.command} {self.path} {self.headers.get('Range') or ''}"
        self.repositories.requests.append(asked.rstrip())

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        url = urlsplit(self.path)
        parts = unquote(url.path).strip("/").split("/")
        fault = self._fault()
        time.sleep(fault.seconds)
        if fault.status:
            self._send(fault.status, b"{}")
        elif parts == ["api", "validate-yaml"]:
            self._send_json({"errors": [], "warnings": []})
        elif (
            self.command == "PUT"
            or parts[1:] in (["whoami-v2"], ["repos", "create"])
            or (parts[-2] in ("preupload", "commit") or parts[-1] == "batch")
        ):
            self._answer_writer(parts, body)
        elif parts[0] == "api" and len(parts) >= 3 and parts[1] in ("datasets", "models"):
            self._answer_api(parts[1], parts[2:], url.query, body)  # pyright: ignore[reportArgumentType]
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind: Kind = "datasets" if parts[0] == "datasets" else "models"
            name = "/".join(parts[1 if kind == "datasets" else 0 : at])
            self._answer_file(kind, name, "/".join(parts[at + 2 :]))
        else:
            self._send(404, b"{}")

    def _answer_writer(self, parts: list[str], body: bytes) -> None:
        """Answer one of the requests of an upload, which only a user may make."""
        hub = self.repositories
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        # The address for a large file is given to a user, and needs no token.
        if self.command == "PUT":
            hub.blobs[parts[-1]] = body
            self._send(200, b"")
            return
        if token not in hub.users:
            self._send(401, b"{}", "Unauthorized", "Invalid username or password.")
            return
        asked: Any = json.loads(body) if body and parts[-2] != "commit" else {}
        match parts:
            case ["api", "whoami-v2"]:
                self._send_json({"type": "user", "name": hub.users[token], "orgs": []})
            case ["api", "repos", "create"]:
                name = f"{asked['organization'] or hub.users[token]}/{asked['name']}"
                if ("models", name) in hub.repositories:
                    self._send(409, json.dumps({"url": f"{hub.url}/{name}"}).encode())
                    return
                hub.repositories["models", name] = {}
                if asked.get("visibility") == "private" or asked.get("private"):
                    hub.private.add(("models", name))
                self._send_json({"url": f"{hub.url}/{name}", "name": name})
            case [*_, "preupload", _]:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] > 10_000_000 else "regular",
                        "shouldIgnore": False,
                    }
                    for file in asked["files"]
                ]
                self._send_json({"files": modes})
            case [*_, "batch"]:
                objects = [
                    {**each, "actions": {"upload": {"href": f"{hub.url}/blobs/{each['oid']}"}}}
                    for each in asked["objects"]
                ]
                self._send_json({"transfer": "basic", "objects": objects})
            case _:
                name = "/".join(parts[2:-2])
                for line in body.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        content = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        content = hub.blobs.pop(value["oid"])
                        assert hashlib.sha256(content).hexdigest() == value["oid"]
                    else:
                        continue
                    hub.repositories["models", name][value["path"]] = content
                commit = hub.revision("models", name)
                address = f"{hub.url}/{name}/commit/{commit}"
                self._send_json({"commitUrl": address, "commitOid": commit, "success": True})

    def _fault(self) -> Fault:
        path = unquote(urlsplit(self.path).path)
        faults = self.repositories.faults.items()
        found = (f for name, f in faults if f"/{name}" in path and path.endswith(f.suffix))
        return next(found, Fault())

    def _answer_api(self, kind: Kind, rest: list[str], query: str, body: bytes) -> None:
        words = ("revision", "tree", "paths-info", "refs")
        at = next((i for i, part in enumerate(rest) if part in words), len(rest))
        name = "/".join(rest[:at])
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        hidden = (kind, name) in self.repositories.private and token not in self.repositories.users
        if hidden or (kind, name) not in self.repositories.repositories:
            self._send(401, b"{}", *MISSING)
            return
        what = rest[at] if at < len(rest) else "revision"
        files = self.repositories.repositories[kind, name]
        below = "/".join(rest[at + 2 :])
        match what:
            case "revision":
                self._send_json(self._info(kind, name))
            case "refs":
                commit = self.repositories.revision(kind, name)
                main = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
                self._send_json({"branches": [main], "converts": [], "tags": []})
            case "tree":
                recursive = "true" in parse_qs(query).get("recursive", ["false"])[0].lower()
                self._send_tree(files, below, recursive)
            case _:
                wanted = _wanted(body, self.headers.get("Content-Type") or "")
                self._send_json([_entry(p, files[p]) for p in wanted if p in files])

    def _send_tree(self, files: Mapping[str, bytes], below: str, recursive: bool) -> None:
        prefix = f"{below}/" if below else ""
        found = {path: content for path, content in files.items() if path.startswith(prefix)}
        if not found and prefix:
            self._send(404, b"{}", "EntryNotFound", f"{below} does not exist")
            return
        folders = {
            prefix + path.removeprefix(prefix).split("/")[0]
            for path in found
            if "/" in path.removeprefix(prefix)
        }
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders]
        for path, content in found.items():
            if recursive or "/" not in path.removeprefix(prefix):
                entries.append(_entry(path, content))
        self._send_json(entries)

    def _info(self, kind: Kind, name: str) -> dict[str, Any]:
        gated = (kind, name) in self.repositories.gated
        files = self.repositories.repositories[kind, name]
        return {
            "_id": "0" * 24,
            "id": name,
            "sha": self.repositories.revision(kind, name),
            "private": (kind, name) in self.repositories.private,
            "gated": "manual" if gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in files],
        }

    def _answer_file(self, kind: Kind, name: str, path: str) -> None:
        if (kind, name) not in self.repositories.repositories:
            self._send(401, b"{}", *MISSING)
        elif (kind, name) in self.repositories.gated:
            self._send(401, b"{}", *GATED)
        elif path not in self.repositories.repositories[kind, name]:
            self._send(404, b"{}", "EntryNotFound", f"{path} does not exist")
        else:
            content = self.repositories.repositories[kind, name][path]
            commit = self.repositories.revision(kind, name)
            headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit}
            self._send_file(content, headers)

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        asked = self.headers.get("Range")
        headers["Accept-Ranges"] = "bytes"
        cut = self._fault().cut
        if asked is None:
            self._send(200, content, headers=headers, cut=cut)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first or 0)
        end = min(int(last or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        cut = None if cut is None or end < cut else max(cut - begin, 0)
        self._send(206, content[begin : end + 1], headers=headers, cut=cut)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        body: bytes,
        code: str = "",
        message: str = "",
        headers: Mapping[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # who waits in vain for a slow answer goes away
                self.wfile.write(body[:cut])
            self.close_connection = cut is not None


def _wanted(body: bytes, content_type: str) -> list[str]:
    if "json" in content_type:
        paths: Any = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else paths
    return parse_qs(body.decode()).get("paths", [])


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": _oid(content), "size": len(content), "path": path}


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
