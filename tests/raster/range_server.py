"""A web server for one file that knows ranges, fails at first, and writes down what it was asked.

A process of its own: rasterio holds Python's lock while it opens a file. It is told the file and
how often a request for the same range fails (503) before it is answered, and prints its port and
then a line a request.
"""

import http.server
import sys
import threading
from collections import Counter
from pathlib import Path

CONTENT = Path(sys.argv[1]).read_bytes()
FAILURES = int(sys.argv[2])
asked = Counter()
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for /scene.tif."""

    def answer(self, body):
        span = self.headers.get("Range")
        with lock:
            asked[self.command, span] += 1
            fails = asked[self.command, span] <= FAILURES
            print(self.command, "fails" if fails else "answers", span, flush=True)
        if fails or self.path != "/scene.tif":
            self.send_error(503 if fails else 404)
            return
        begin, _, end = (span or "bytes=0-").removeprefix("bytes=").partition("-")
        first, last = int(begin), min(int(end or len(CONTENT) - 1), len(CONTENT) - 1)
        part = CONTENT[first : last + 1]
        self.send_response(206 if span else 200)
        self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
