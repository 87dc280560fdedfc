from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_cross_encoder, write_embedder

from rag.errors import ModelError
from rag.protocols import Reranker
from rag.rerank import CrossEncoderReranker, EndpointReranker

Answer = tuple[int, str]
TEXTS = ["wear goggles", "the torque of the main bolt is 45", "", "invoice paid within thirty days"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("models") / "pairs")


class Server:
    """A reranking server on the loopback; `answer` decides, `requests` remembers."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], Answer] = right
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                status, text = outer.answer(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def right(body: dict[str, Any]) -> Answer:
    """Score a text by its length, longest first, as a server sorts its answer."""
    scored = [{"index": place, "score": len(text) / 7} for place, text in enumerate(body["texts"])]
    return 200, json.dumps(sorted(scored, key=lambda entry: -entry["score"]))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


def test_cross_encoder_equals_sentence_transformers(pairs: Path) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    query = "torque of the bolt"
    expected = CrossEncoder(str(pairs), device="cpu").predict(
        [(query, text) for text in TEXTS], activation_fn=torch.nn.Identity()
    )
    reranker = CrossEncoderReranker(str(pairs), device="cpu", batch_size=2)
    assert isinstance(reranker, Reranker)
    found = reranker.rerank(query, TEXTS)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-5)
    assert len(set(found.tolist())) == len(TEXTS)


def test_cross_encoder_reads_hostile_text(pairs: Path) -> None:
    reranker = CrossEncoderReranker(str(pairs), device="cpu")
    texts = ["", "\ud800", "\x00\x01", "x" * 1_000_000, "[SEP] " * 20, "字" * 5000]
    for query in ("", "\udfff?", "q" * 100_000):
        assert np.isfinite(reranker.rerank(query, texts)).all()
    assert reranker.rerank("a", []).shape == (0,)
    sep = reranker._loaded.tokenizer.sep_token_id
    ids = reranker._loaded.tokenizer("a", "[SEP] [SEP]")["input_ids"]
    assert ids.count(sep) == 2


def test_cross_encoder_is_not_disturbed_by_threads(pairs: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    reranker = CrossEncoderReranker(str(pairs), device="cpu")
    expected = reranker.rerank("bolt", TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: reranker.rerank("bolt", TEXTS), range(8)):
            assert np.allclose(found, expected, atol=1e-5)


def test_cross_encoders_that_cannot_rank_are_refused(tmp_path: Path) -> None:
    three = write_cross_encoder(tmp_path / "three", labels=3)
    with pytest.raises(ModelError, match="gives 3 scores for a pair, expected 1"):
        CrossEncoderReranker(str(three), device="cpu").rerank("a", ["b"])
    pickled = write_cross_encoder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="not in the safetensors format"):
        CrossEncoderReranker(str(pickled), device="cpu").rerank("a", ["b"])
    with pytest.raises(ModelError, match="no model folder"):
        CrossEncoderReranker(str(tmp_path / "nowhere")).rerank("a", ["b"])
    broken = write_cross_encoder(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="Cannot load the model"):
        CrossEncoderReranker(str(broken), device="cpu").rerank("a", ["b"])


def test_a_cross_encoder_that_gives_nan_is_a_model_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_cross_encoder(tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="no number"):
        CrossEncoderReranker(str(folder), device="cpu").rerank("a", ["b"])


def test_endpoint_scores_come_back_in_the_order_of_the_texts(server: Server) -> None:
    reranker = EndpointReranker(server.url + "/", api_key="secret")
    assert isinstance(reranker, Reranker)
    found = reranker.rerank("bolt\ud800", [*TEXTS, "中\udfff"])
    assert found.tolist() == pytest.approx([len(text) / 7 for text in [*TEXTS, "中x"]])
    ((path, headers, body),) = server.requests
    assert path == "/rerank"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {"query": "bolt\ufffd", "texts": [*TEXTS, "中\ufffd"], "truncate": True}


def test_endpoint_batches(server: Server) -> None:
    texts = ["x" * number for number in range(10)]
    found = EndpointReranker(server.url + "/rerank", batch=4).rerank("q", texts)
    assert found.tolist() == pytest.approx([number / 7 for number in range(10)])
    assert [len(body["texts"]) for _, _, body in server.requests] == [4, 4, 2]
    assert {path for path, _, _ in server.requests} == {"/rerank"}
    assert "Authorization" not in server.requests[0][1]
    assert EndpointReranker(server.url).rerank("q", []).shape == (0,)


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (500, '{"error": "out of\\nmemory"}', 'answered 500: {"error": "out of'),
        (413, "batch size 2 > maximum allowed 1", "answered 413: batch size 2"),
        (302, "", "answered 302: nothing"),
        (200, "<html>", "answered no JSON: <html>"),
        (200, "", "answered no JSON: nothing"),
        (200, "[" * 100_000, "answered no JSON"),
        (200, '{"results": []}', "no finite score for each of 2 texts"),
        (200, "null", "no finite score"),
        (200, "[1, 2]", "no finite score"),
        (200, '[{"index": 0, "score": 1}]', "no finite score"),
        (200, '[{"index": 0, "score": 1}, {"index": 2, "score": 1}]', "no finite score"),
        (200, '[{"index": 0, "score": 1}, {"index": 0, "score": 2}]', "scored text 0 twice"),
        (200, '[{"index": 0, "score": 1}, {"index": 1, "score": NaN}]', "no finite score"),
        (200, '[{"index": 0, "score": 1}, {"index": 1, "score": 1e999}]', "no finite score"),
        (200, '[{"index": 0, "score": 1}, {"index": 1, "score": "1"}]', "no finite score"),
        (200, '[{"index": 0, "score": 1}, {"index": true, "score": 1}]', "no finite score"),
        (200, '[{"index": 0, "score": 1}, {"index": 1, "score": true}]', "no finite score"),
        (200, '[{"index": 0, "score": 1}, {"index": 1}]', "no finite score"),
        (200, f'[{{"index": 0, "score": 1}}, {{"index": 1, "score": 1{"0" * 400}}}]', "no finite"),
        (200, '[{"index":0,"score":1},{"index":1,"score":1},{"index":2,"score":1}]', "no finite"),
    ],
)
def test_endpoint_that_answers_nonsense(
    server: Server, status: int, text: str, message: str
) -> None:
    server.answer = lambda _: (status, text)
    with pytest.raises(ModelError) as caught:
        EndpointReranker(server.url).rerank("q", ["a", "b"])
    assert message in str(caught.value)
    assert server.url in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_endpoint_that_is_too_slow(server: Server) -> None:
    waiting = threading.Event()
    server.answer = lambda body: right(body) if waiting.wait(20) else (500, "")
    with pytest.raises(ModelError, match=r"did not answer within 0\.1 s"):
        EndpointReranker(server.url, timeout=0.1).rerank("q", ["a"])
    waiting.set()
    time.sleep(0)


def test_endpoint_that_is_not_there(server: Server) -> None:
    closed = Server()
    closed.close()
    for url in (closed.url, "not a url", "ftp://127.0.0.1", "http://"):
        with pytest.raises(ModelError, match="Cannot reach the reranker"):
            EndpointReranker(url, timeout=5).rerank("q", ["a"])


def test_an_embedder_is_no_cross_encoder(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "embedder")
    with pytest.raises(ModelError, match="lacks 2 of its weights, such as classifier"):
        CrossEncoderReranker(str(folder), device="cpu").rerank("a", ["b"])
