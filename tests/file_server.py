"""A small file server that can be told to misbehave, and encrypted archives for it."""

import io
import re
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from zipfile import ZipFile


class Files(dict):
    """What a server sends, by path, and how.

    ``cut`` is the number of bytes after which it closes a connection (None: never),
    ``ranges`` whether it can begin in the middle, ``busy`` how often it answers 503
    first; ``asked`` lists path and Range of every request.
    """

    def __init__(self):
        self.cut, self.ranges, self.busy, self.asked = None, True, 0, []
        self.url = ""


@contextmanager
def serving():
    """Yield the files of a server on this machine."""
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            files.asked.append((self.path, self.headers.get("Range")))
            if files.busy:
                files.busy -= 1
                self.send_error(503)
            elif self.path not in files:
                self.send_error(404)
            else:
                send(self, files)

        def log_message(self, *arguments):
            pass

    with listening(Handler) as files.url:
        yield files


@contextmanager
def listening(handler):
    """Answer requests in a thread; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler, files):
    """Send a file from where it is asked for, as far as the server goes."""
    content = files[handler.path]
    asked = re.match(r"bytes=(\d+)-", handler.headers.get("Range") or "")
    start = int(asked[1]) if asked and files.ranges else 0
    if asked and files.ranges and start >= len(content):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.send_header("Content-Length", "0")
        return handler.end_headers()
    handler.send_response(206 if asked and files.ranges else 200)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    end = len(content) if files.cut is None else start + files.cut
    handler.wfile.write(content[start:end])


def encrypted_zip(members, password):
    """Make an archive in the traditional encryption, which zipfile only reads.

    See APPNOTE.TXT of PKWARE, section 6.1.
    """
    stream = io.BytesIO()
    with ZipFile(stream, "w") as bundle:
        for name, content in members.items():
            crc = zlib.crc32(content)
            header = bytes(11) + bytes([crc >> 24])
            bundle.writestr(name, encrypt(header + content, password))
            info = bundle.getinfo(name)
            info.CRC, info.file_size, info.flag_bits = crc, len(content), 1
    return stream.getvalue()


def encrypt(content, password):
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte):
        keys[0] = crc32(byte, keys[0])
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = crc32(keys[1] >> 24, keys[2])

    for byte in password:
        update(byte)
    encrypted = bytearray()
    for byte in content:
        mixed = keys[2] | 2
        encrypted.append(byte ^ (mixed * (mixed ^ 1) >> 8 & 0xFF))
        update(byte)
    return bytes(encrypted)


def crc32(byte, register):
    """Advance the register of CRC-32 by a byte, without zlib's inversions."""
    return zlib.crc32(bytes([byte]), register ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
