"""An endpoint like OpenAI's whose model is slow: for answers that are still being written."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class SlowModel:
    """A model that says "word " so many times.

    Attributes:
        url: What the setting `generator_url` is to be.
        said: Words said to all clients together.
        left: Streams that a client left before their end.
    """

    url: str = ""
    words: int = 20
    pause_s: float = 0.1
    said: int = 0
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def slow_model(words: int = 20, pause_s: float = 0.1) -> Iterator[SlowModel]:
    """Serve one for the length of a `with` block."""
    model = SlowModel(words=words, pause_s=pause_s)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            try:
                for number in range(model.words + 1):
                    last = number == model.words
                    delta = {} if last else {"role": "assistant", "content": "word "}
                    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if last else None}
                    chunk = {
                        "id": "x", "object": "chat.completion.chunk", "created": 0,
                        "model": "slow", "choices": [choice],
                    }  # fmt: skip
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                    self.wfile.flush()
                    with model.lock:
                        model.said += 1
                    time.sleep(model.pause_s)
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                with model.lock:
                    model.left += 1

        def log_message(self, format: str, *_args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
