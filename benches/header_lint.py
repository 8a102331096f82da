#!/usr/bin/env python3
"""What `lint ORG/NAME` transfers of a checkpoint, and whether it tells what lint of the folder does but for values.

    python benches/larger_than_memory.py … makes a checkpoint; then
    python benches/header_lint.py target/release/achilles-audit FOLDER

Serves the folder as a hub on the loopback (the list of files, redirects of large ones, ranges), lints both, and prints
the bytes that were sent and what only one of both found. Needs Python alone."""

import argparse
import hashlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 10 << 20
OF_VALUES = re.compile(r"nan|zero-|constant-|lesion-|denormal|infinit|embedding-|tied-")


class Hub(ThreadingHTTPServer):
    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.sent, self.lock = folder, 0, threading.Lock()
        self.files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            size, digest = path.stat().st_size, hashlib.sha1(b"blob %d\0" % path.stat().st_size)
            # What is large is named by its SHA-256, which no header asks for: any will do.
            large = size > LARGE
            name = "0" * 64 if large else (digest.update(path.read_bytes()), digest.hexdigest())[1]
            self.files[path.relative_to(folder).as_posix()] = (size, name, large)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b"", length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            with self.server.lock:
                self.server.sent += len(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        if self.path.startswith("/api/models/org/name/revision/"):
            siblings = []
            for name, (size, digest, large) in hub.files.items():
                sibling = {"rfilename": name, "size": size, "blobId": digest[:40]}
                siblings.append(sibling | ({"lfs": {"sha256": digest, "size": size}} if large else {}))
            return self.answer(200, {}, json.dumps({"sha": COMMIT, "siblings": siblings}).encode())
        place, _, name = self.path.partition(f"/resolve/{COMMIT}/")
        name = name or self.path.removeprefix("/large/")
        size, digest, large = hub.files[name]
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
        if large and not self.path.startswith("/large/"):
            more = {"Location": f"/large/{name}", "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size)}
            return self.answer(302, headers | more)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or size - 1)) if asked else (0, size - 1)
        with open(hub.folder / name, "rb") as file:
            file.seek(first)
            body = file.read(last + 1 - first)
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.answer(206 if asked else 200, headers, body)


def lint(binary, model, **environment):
    started = time.perf_counter()
    run = subprocess.run(
        [binary, "lint", model, "--format", "json", "--progress", "none"],
        capture_output=True, text=True, env=os.environ | environment,
    )
    seconds = time.perf_counter() - started
    if not run.stdout:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout), run.returncode, seconds


def structural(found):
    kept = (f for f in found["findings"] if not OF_VALUES.search(f["id"]))
    return {(f["id"], json.dumps(f["location"]), f["message"]) for f in kept}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    binary = str(options.binary.resolve())
    hub = Hub(options.folder)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as cache:
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_CACHE": cache}
        remote, code, seconds = lint(binary, "org/name", **environment)
    folder, folder_code, folder_seconds = lint(binary, str(options.folder))
    size = sum(size for size, _, _ in hub.files.values())
    small = sum(size for size, _, large in hub.files.values() if not large)
    weights = hub.sent - small
    print(f"{len(hub.files)} files, {size:,} bytes, {small:,} of them in small files")
    print(f"lint org/name: {hub.sent:,} bytes sent, {weights:,} but for small files, {seconds:.2f} s, exit code {code}")
    print(f"lint FOLDER: {folder_seconds:.2f} s, exit code {folder_code}")
    mine, theirs = structural(remote), structural(folder)
    print(f"{len(mine & theirs)} structural findings in both, {len(mine - theirs)} of the hub alone, {len(theirs - mine)} of the folder alone")
    for finding in sorted(mine ^ theirs):
        print("  ", *finding)
    return 0 if mine == theirs else 1


if __name__ == "__main__":
    raise SystemExit(main())
