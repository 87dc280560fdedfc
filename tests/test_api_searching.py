"""Searches in several stores: of a passage that is in more than one, the best score counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from filled import fill
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseFileSearchToolCall
from served import Served

from api.batching import Found, Search
from api.searching import Wanted, search
from api.service import Service
from api.tracing import NoTracing
from rag.schema import Chunk, Hit

FILES: dict[str, tuple[str, dict[str, str | float | bool]]] = {
    f"pump-{name}.md": (f"# {name}\n\nThe {name} pump weighs {weight} kg.\n", {})
    for name, weight in (("D10", 110), ("D20", 120), ("D30", 130), ("D40", 140), ("D50", 150))
}


def test_a_file_in_two_stores_does_not_crowd_out_others(served: Served) -> None:
    client = served.client()
    one, two = fill(client, "crowd-1", FILES), client.vector_stores.create(name="crowd-2")
    batch = client.vector_stores.file_batches.create_and_poll(
        two.id, file_ids=list(one.ids.values()), poll_interval_ms=30
    )
    assert batch.file_counts.completed == len(FILES)
    response = client.responses.create(
        model="youju",
        input="How much does the D40 pump weigh?",
        tools=[{"type": "file_search", "vector_store_ids": [one.id, two.id], "max_num_results": 4}],
        include=["file_search_call.results"],
    )
    call = response.output[0]
    assert isinstance(call, ResponseFileSearchToolCall)
    assert len({hit.file_id for hit in call.results or []}) == 4


@dataclass
class _Stores:
    """Stands for the service: what each store finds."""

    found: dict[str, Found]
    tracing = NoTracing()

    @property
    def batcher(self) -> _Stores:
        return self

    async def search(self, wanted: Search) -> Found:
        return self.found[wanted.store_id]


Place = tuple[str, int]
stores = st.dictionaries(
    st.sampled_from(["vs_1", "vs_2", "vs_3"]),
    st.dictionaries(
        st.tuples(st.sampled_from(["file-1", "file-2", ""]), st.integers(0, 3)),
        st.integers(0, 10).map(lambda tenths: tenths / 10),
        max_size=6,
    ),
    min_size=1,
)


@given(stores, st.integers(1, 12), st.sampled_from([0.0, 0.5]))
def test_each_passage_once_with_its_best_score(
    scores: dict[str, dict[Place, float]], top_k: int, threshold: float
) -> None:
    found, ids = {}, iter(range(1, 1000))
    best: dict[object, float] = {}
    for store_id, places in scores.items():
        hits = []
        for (file_id, start), score in places.items():
            chunk = Chunk(next(ids), file_id or "x", start, start + 1, "t", file_id=file_id)
            hits.append(Hit(chunk, score))
            # without a file's id nothing says that it is the same file
            key = (file_id, start) if file_id else chunk.id
            best[key] = max(score, best.get(key, 0.0))
        hits.sort(key=lambda hit: -hit.score)
        found[store_id] = Found(hits, {}, {})
    service = cast(Any, _Stores(found))
    wanted = Wanted(top_k, threshold=threshold)
    hits = asyncio.run(search(cast(Service, service), "p", list(scores), ["q"], wanted)).hits
    expected = sorted((score for score in best.values() if score >= threshold), reverse=True)
    assert [hit.score for hit in hits] == expected[:top_k]
    shown = [(hit.chunk.file_id, hit.chunk.start) for hit in hits if hit.chunk.file_id]
    assert len(set(shown)) == len(shown)
