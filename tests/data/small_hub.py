"""A Hub of one repository on this machine: what its client asks for when it looks, lists and downloads."""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def small_hub(repo, folder, commit, *, stop_after=None, written=lambda: True):
    """Serve the files of `folder` as `repo`; after `stop_after` downloads all break off, until /heal is asked.

    They break off once `written` says that the client has written what it was served whole.
    """
    files = {
        str(path.relative_to(folder).as_posix()): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    served = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, body, *, code=200, **headers):
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0]
            served.append((self.command, path))
            if path == "/heal":
                nonlocal stop_after
                stop_after = None
                return self.answer(b"")
            if path.startswith(f"/api/datasets/{repo}/tree/"):
                told = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                return self.answer(json.dumps(told).encode(), Content_Type="application/json")
            if path.startswith(f"/api/datasets/{repo}"):
                told = {
                    "id": repo,
                    "sha": commit,
                    "private": False,
                    "gated": False,
                    "disabled": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [{"rfilename": name, "size": len(data)} for name, data in files.items()],
                }
                return self.answer(json.dumps(told).encode(), Content_Type="application/json")
            if path.startswith("/api/datasets/"):
                return self.answer(b"{}", code=404, X_Error_Code="RepoNotFound")
            name = path.removeprefix(f"/datasets/{repo}/resolve/{commit}/")
            if name not in files:
                return self.answer(b"{}", code=404, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
            done = sum(1 for command, where in served if command == "GET" and "/resolve/" in where)
            if self.command == "GET" and stop_after is not None and done > stop_after:
                self.send_response(200)
                self.send_header("Content-Length", str(len(files[name])))
                self.end_headers()
                self.wfile.write(files[name][:100])
                deadline = time.monotonic() + 60
                while not written() and time.monotonic() < deadline:
                    time.sleep(0.05)
                self.close_connection = True
                return None
            return self.answer(files[name], ETag=etag, X_Repo_Commit=commit, Accept_Ranges="bytes")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        server.server_close()
