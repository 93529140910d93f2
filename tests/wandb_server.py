"""A W&B server on loopback that keeps what the real SDK sends it as plain data.

Operations are matched by name. One that is not known here is answered with 400 and kept in
`unknown`, so that a new SDK shows up as a test failure that names what it asks for.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.wandb_artifact_server import ArtifactOperations, ReceivedArtifact
from tests.wandb_sweep_server import ReceivedSweep, SweepOperations

KEY = "a" * 40
ENTITY = "local"
Json = dict[str, Any]


@dataclass
class ReceivedRun:
    """What the server has of one run."""

    name: str  # the SDK's run id
    project: str = ""
    sweep: str | None = None
    group: str | None = None
    job_type: str | None = None
    display_name: str | None = None
    config: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    is_complete: bool = False
    exit_code: int | None = None
    num_opened: int = 0


class WandbServer(SweepOperations, ArtifactOperations):
    """Serves on a free port of 127.0.0.1 between `with WandbServer() as server` and its end."""

    def __init__(self, silent_after: str | None = None) -> None:
        """Answer everything, or nothing more once an operation named `silent_after` was served.

        "file_stream" names the upload of rows, "" is silence from the start.
        """
        self.runs: dict[str, ReceivedRun] = {}
        self.artifacts: list[ReceivedArtifact] = []
        self.sweeps: dict[str, ReceivedSweep] = {}
        self.stop_asked: set[str] = set()
        self.operations: list[str] = []
        """Names of the operations asked for, in order."""
        self.unknown: list[str] = []
        """Operations and paths that were answered with 400."""
        self._lock = threading.Lock()
        self._silent_after = silent_after
        self._silent = threading.Event()
        self._closed = threading.Event()
        if silent_after == "":
            self._silent.set()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        """Serve in a thread."""
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop; whoever waits for a silent answer is hung up on."""
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a process that is logged in here and knows no other home."""
        home.mkdir(exist_ok=True)
        return isolated_environment(
            home, WANDB_BASE_URL=self.url, WANDB_API_KEY=KEY, WANDB_ENTITY=ENTITY
        )

    # What the handler's threads call.

    def answer(self, path: str, body: bytes) -> Json | None:
        """Take one POST; None where it is unknown."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        asked = json.loads(body or b"{}") if parts[0] in ("graphql", "files") else {}
        what = _operation(asked) if parts == ["graphql"] else parts[-1]
        with self._lock:
            self.operations.append(what)
            found = self._dispatch(what, parts, asked)
            if found is None:
                self.unknown.append(what if parts == ["graphql"] else path)
        if what == self._silent_after:
            self._silent.set()
        return found

    def wait_if_silent(self) -> bool:
        """Return whether there is to be no answer, once the server ends."""
        if not self._silent.is_set():
            return False
        self._closed.wait(300)
        return True

    def put(self, path: str, body: bytes) -> None:
        """Take an uploaded file."""
        kind, owner, *name = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        with self._lock:
            if kind == "run-files":
                self._run(owner).files["/".join(name)] = body
            elif kind == "manifests":
                self.artifacts[int(owner)].manifest = json.loads(body)
            else:
                self.artifacts[int(owner)].files["/".join(name)] = body

    def _dispatch(self, what: str, parts: list[str], asked: Json) -> Json | None:
        if parts[:2] == ["sdk", "otel"]:
            return {}
        if len(parts) == 5 and parts[0] == "files" and what == "file_stream":
            return self._stream(self._run(parts[3]), asked)
        if parts != ["graphql"]:
            return None
        operation: Callable[[Json], Json] | None = _OPERATIONS.get(what)
        if operation is None:
            operation = getattr(self, f"_on_{what}", None)
        return None if operation is None else {"data": operation(asked.get("variables") or {})}

    def _run(self, name: str) -> ReceivedRun:
        return self.runs.setdefault(name, ReceivedRun(name))

    def _stream(self, run: ReceivedRun, asked: Json) -> Json:
        for name, chunk in (asked.get("files") or {}).items():
            lines = chunk["content"]
            if name == "wandb-history.jsonl":
                # by offset, because a chunk whose answer was lost is sent again
                run.history[chunk["offset"] :] = [json.loads(line) for line in lines]
            elif name == "wandb-summary.json":
                run.summary = json.loads(lines[-1])
        if asked.get("complete"):
            run.is_complete, run.exit_code = True, asked.get("exitcode")
        return {"exitcode": None, "limits": {}}

    def _on_UpsertBucket(self, asked: Json) -> Json:
        run = self._run(asked.get("name") or asked["id"])
        run.num_opened += 1
        run.project = asked.get("project") or run.project
        run.sweep = asked.get("sweep") or run.sweep
        run.group = asked.get("groupName") or run.group
        run.job_type = asked.get("jobType") or run.job_type
        run.display_name = asked.get("displayName") or run.display_name
        if asked.get("config"):
            run.config = {k: v["value"] for k, v in json.loads(asked["config"]).items()}
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.display_name,
            "config": asked.get("config"),
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": run.num_opened == 1}}

    def _on_RunResumeStatus(self, asked: Json) -> Json:
        run = self.runs.get(asked["name"])
        if run is None:
            return {"model": None}
        tail = json.dumps([json.dumps(row) for row in run.history[-1:]])
        config = json.dumps({k: {"value": v} for k, v in run.config.items()})
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.display_name,
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": tail,
            "eventsTail": "[]",
            "config": config,
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }
        entity = {"id": "e", "name": ENTITY}
        return {"model": {"id": "p", "name": run.project, "entity": entity, "bucket": bucket}}

    def _on_CreateRunFiles(self, asked: Json) -> Json:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/run-files/{asked['run']}/{name}"}
            for name in asked["files"]
        ]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}


_VIEWER = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
_OPERATIONS: dict[str, Callable[[Json], Json]] = {
    "Viewer": lambda _: {"viewer": {**_VIEWER, "teams": {"edges": []}}},
    "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": None},
    "ArtifactType": lambda _: {"project": {"artifact": None}},
    "XXHashDigestsEnabled": lambda _: {"entity": {"xxhashDigestsEnabled": False}},
    "MarkRunFilesUploaded": lambda _: {"markRunFilesUploaded": {"success": True}},
    "RunStoppedStatus": lambda _: {"project": {"run": {"stopped": False}}},
}


def _operation(asked: Json) -> str:
    """Return a GraphQL request's operation name, which some clients only put in the query."""
    query = str(asked.get("query"))
    named = re.match(r"\s*(?:query|mutation)\s+(\w+)", query)
    return asked.get("operationName") or (named[1] if named else " ".join(query.split()))


def isolated_environment(home: Path, **more: str) -> dict[str, str]:
    """Return this environment with another home, and nothing in it that the SDK would heed."""
    home.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "NETRC", "XDG_"))}
    return {**kept, "HOME": str(home), "WANDB_ERROR_REPORTING": "false", **more}


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing on stderr where a client hangs up, as the SDK's service does at its end."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: WandbServer

    def do_POST(self) -> None:
        body = self._body()
        if self.owner.wait_if_silent():
            return
        answer = self.owner.answer(self.path, body)
        if answer is None:
            message = f"not known to the tests' server: {self.owner.unknown[-1]}"
            self._send(400, {"errors": [{"message": message}]})
        else:
            self._send(200, answer)

    def do_PUT(self) -> None:
        body = self._body()
        if not self.owner.wait_if_silent():
            self.owner.put(self.path, body)
            self._send(200, {})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, status: int, answer: Json) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Say nothing on stderr."""
