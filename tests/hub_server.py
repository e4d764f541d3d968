"""A Hugging Face hub with one revision of one model, on this machine."""

import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from file_server import listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(dict):
    """Content of the files by name; ``asked`` lists what was downloaded.

    ``promised`` replaces the content that the checksums of a file are of.
    """

    def __init__(self, model):
        self.model, self.asked, self.promised, self.url = model, [], {}, ""

    def digest(self, name):
        return hashlib.sha256(self.promised.get(name, self[name])).hexdigest()

    def answer(self, path):
        """Return body and headers for a path; else raise KeyError: what is missing."""
        kind, _, rest = path.partition(f"{self.model}/")
        action, revision, *name = rest.partition("?")[0].split("/", 2)
        if revision not in (COMMIT, "main"):
            raise KeyError("Revision")
        if kind == "/api/models/" and not name:
            describe = {"revision": self.describe, "tree": self.list_files}[action]
            return json.dumps(describe()).encode(), {"Content-Type": "application/json"}
        if kind == "/api/models/" or name[0] not in self:
            raise KeyError("Entry")
        digest = self.digest(name[0])
        return self[name[0]], {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'}

    def describe(self):
        siblings = [{"rfilename": name} for name in self]
        return {"id": self.model, "sha": COMMIT, "siblings": siblings}

    def list_files(self):
        listed = []
        for name, content in self.items():
            large = {"oid": self.digest(name), "size": len(content), "pointerSize": 130}
            file = {"type": "file", "path": name, "size": len(content), "lfs": large}
            listed.append(file | {"oid": "0" * 40})
        return listed


@contextmanager
def serving_hub(model):
    """Yield the files of a model on a hub of this machine."""
    hub = Hub(model)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, *, with_body=True):
            try:
                body, headers = hub.answer(self.path)
            except KeyError as error:
                body, headers = b"", {"X-Error-Code": f"{error.args[0]}NotFound"}
            self.send_response(200 if "X-Error-Code" not in headers else 404)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                hub.asked.append(self.path)
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET(with_body=False)

        def log_message(self, *arguments):
            pass

    with listening(Handler) as hub.url:
        yield hub
