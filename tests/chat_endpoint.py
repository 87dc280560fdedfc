"""A chat-completions server on loopback that answers what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """A chat-completions server that answers what the test says and keeps what it was asked."""

    def __init__(self) -> None:
        self.reply = ""
        self.status = 200
        self.finish = "stop"
        self.breaks_off = False  # in the middle of a stream
        self.body = b""  # sent as it is instead of an answer
        self.requests: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append(json.loads(body))
                if endpoint.requests[-1].get("stream") and not endpoint.body:
                    if endpoint.status == 200:
                        self.stream()
                        return
                answer: dict[str, Any] = {
                    "id": "c1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": endpoint.finish,
                            "message": {"role": "assistant", "content": endpoint.reply},
                        }
                    ],
                    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
                }
                if endpoint.status != 200:
                    answer = {"error": {"message": "no such model", "type": "x", "code": "y"}}
                data = endpoint.body or json.dumps(answer).encode()
                self.send_response(endpoint.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self) -> None:
                """Send the reply as events, four characters each."""
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                if endpoint.breaks_off:
                    self.send_header("Content-Length", "999999")
                self.end_headers()
                whole = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
                for at in range(0, len(endpoint.reply), 4):
                    delta = {"content": endpoint.reply[at : at + 4]}
                    self.event({**whole, "choices": [{"index": 0, "delta": delta}]})
                if not endpoint.breaks_off:
                    end = {"index": 0, "delta": {}, "finish_reason": endpoint.finish}
                    self.event({**whole, "choices": [end]})
                    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
                    self.event({**whole, "choices": [], "usage": usage})
                    self.wfile.write(b"data: [DONE]\n\n")

            def event(self, data: dict[str, Any]) -> None:
                self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@contextmanager
def listening() -> Iterator[Endpoint]:
    """Run an endpoint for the length of a `with` block."""
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()
