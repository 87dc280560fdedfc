"""An example of every body that goes in or comes out, for /openapi.json; a test validates them."""

from __future__ import annotations

from typing import Any, Final

FILE_ID: Final = "file-019ab3c2d4e5f60718293a4b"
STORE_ID: Final = "vs_019ab3c2d5f0a1b2c3d4e5f6"
RESPONSE_ID: Final = "resp_019ab3c2e1a2b3c4d5e6f708"
BATCH_ID: Final = "vsfb_019ab3c2d6a1b2c3d4e5f607"
UPLOAD_ID: Final = "upload_019ab3c2d4e5f60718293a4b"
PART_ID: Final = "part_019ab3c2d4e5f60718293a4b"
_AT: Final = 1_763_985_600
_QUOTE: Final = "The D40 weighs 185 kg and needs 230 V."
_ZH: Final = "员工陪产假为十五天。"

_FILE: Final[dict[str, Any]] = {
    "id": FILE_ID,
    "object": "file",
    "bytes": 81,
    "created_at": _AT,
    "filename": "pump.md",
    "purpose": "assistants",
    "status": "processed",
    "expires_at": None,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
_COUNTS: Final = {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 0, "total": 1}
_STORE: Final[dict[str, Any]] = {
    "id": STORE_ID,
    "object": "vector_store",
    "created_at": _AT,
    "name": "handbook",
    "description": None,
    "usage_bytes": 2048,
    "file_counts": _COUNTS,
    "status": "completed",
    "expires_after": None,
    "expires_at": None,
    "last_active_at": _AT,
    "metadata": {"team": "service"},
}
_STORE_FILE: Final[dict[str, Any]] = {
    "id": FILE_ID,
    "object": "vector_store.file",
    "created_at": _AT,
    "vector_store_id": STORE_ID,
    "status": "completed",
    "usage_bytes": 2048,
    "last_error": None,
    "attributes": {"year": 2024, "language": "en"},
    "chunking_strategy": {
        "type": "static",
        "static": {"max_chunk_size_tokens": 256, "chunk_overlap_tokens": 32},
    },
}
_CITATION: Final[dict[str, Any]] = {
    "type": "file_citation",
    "file_id": FILE_ID,
    "filename": "pump.md",
    "index": 39,
    "youju": {
        "quote": _QUOTE,
        "start": 8,
        "end": 46,
        "page": None,
        "score": 0.83,
        "vector_store_id": None,
    },
}
_ACCOUNT: Final[dict[str, Any]] = {
    "refused": False,
    "confidence": 0.91,
    "unsupported": [],
    "dropped": 0,
    "standalone": None,
    "ignored": [],
    "timings": {"retrieve": 0.012, "answer": 0.004},
}
_ANSWER: Final = f"{_QUOTE} [1]"
_FEEDBACK: Final[dict[str, Any]] = {
    "id": "fb_019ab3c2f0a1b2c3d4e5f607",
    "object": "response.feedback",
    "created_at": _AT,
    "response_id": RESPONSE_ID,
    "rating": "down",
    "correction": "It weighs 185 kg.",
    "comment": None,
}
_MODEL: Final[dict[str, Any]] = {
    "id": "youju:handbook",
    "object": "model",
    "created": 0,
    "owned_by": "youju",
}


def _page(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the example of a list with one item."""
    ends = {"first_id": item["id"], "last_id": item["id"]}
    return [{"object": "list", "data": [item], **ends, "has_more": False}]


PARAMETERS: Final[dict[str, str]] = {
    "file_id": FILE_ID,
    "store_id": STORE_ID,
    "response_id": RESPONSE_ID,
    "batch_id": BATCH_ID,
    "upload_id": UPLOAD_ID,
    "model_id": "youju",
}
"""Of parameters in paths, by name."""

EXAMPLES: Final[dict[str, list[dict[str, Any]]]] = {
    "UploadCreate": [
        {
            "bytes": 5_242_880,
            "filename": "员工手册.pdf",
            "mime_type": "application/pdf",
            "purpose": "assistants",
        }
    ],
    "UploadComplete": [{"part_ids": [PART_ID]}],
    "StoreCreate": [
        {"name": "handbook", "file_ids": [FILE_ID], "metadata": {"team": "service"}},
        {"name": "员工手册", "expires_after": {"anchor": "last_active_at", "days": 30}},
    ],
    "StoreUpdate": [{"name": "员工手册（2024）", "metadata": {"department": "人事部"}}],
    "StoreFileCreate": [
        {
            "file_id": FILE_ID,
            "attributes": {"year": 2024, "language": "zh"},
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 20},
            },
        }
    ],
    "StoreFileUpdate": [{"attributes": {"year": 2025, "部门": "人事部"}}],
    "BatchCreate": [
        {"file_ids": [FILE_ID], "attributes": {"year": 2024}},
        {"files": [{"file_id": FILE_ID, "attributes": {"language": "zh"}}]},
    ],
    "SearchRequest": [
        {"query": "How much does the D40 weigh?", "max_num_results": 5},
        {
            "query": ["陪产假", "paternity leave"],
            "filters": {
                "type": "and",
                "filters": [
                    {"type": "gte", "key": "year", "value": 2023},
                    {"type": "in", "key": "language", "value": ["zh", "en"]},
                ],
            },
        },
    ],
    "ResponseCreate": [
        {"model": "youju:handbook", "input": "How much does the D40 weigh?"},
        {
            "model": "youju",
            "input": [{"role": "user", "content": "陪产假可以休多少天？"}],
            "tools": [{"type": "file_search", "vector_store_ids": [STORE_ID]}],
            "include": ["file_search_call.results"],
        },
    ],
    "ChatCreate": [
        {
            "model": "youju:handbook",
            "messages": [{"role": "user", "content": "How much does the D40 weigh?"}],
        },
        {
            "model": "youju:handbook",
            "messages": [{"role": "user", "content": "D40 水泵有多重？"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ],
    "FeedbackCreate": [
        {"rating": "up"},
        {"rating": "down", "correction": _ZH, "comment": "引用的是旧版手册。"},
    ],
    "EmbeddingRequest": [
        {"model": "all-MiniLM-L6-v2", "input": ["a pump", "一台水泵"]},
        {"model": "all-MiniLM-L6-v2", "input": "How heavy is it?", "input_type": "query"},
    ],
    "RetrievalRequest": [
        {
            "knowledge_id": STORE_ID,
            "query": "陪产假可以休多少天？",
            "retrieval_setting": {"top_k": 3, "score_threshold": 0.5},
            "metadata_condition": {
                "logical_operator": "and",
                "conditions": [{"name": "year", "comparison_operator": "≥", "value": 2023}],
            },
        }
    ],
    "FileShown": [_FILE],
    "Listing_FileShown_": _page(_FILE),
    "UploadShown": [
        {
            "id": UPLOAD_ID,
            "object": "upload",
            "bytes": 81,
            "created_at": _AT,
            "expires_at": _AT + 3600,
            "filename": "pump.md",
            "purpose": "assistants",
            "status": "completed",
            "file": _FILE,
        }
    ],
    "PartShown": [
        {
            "id": PART_ID,
            "object": "upload.part",
            "created_at": _AT,
            "upload_id": UPLOAD_ID,
        }
    ],
    "StoreShown": [_STORE],
    "Listing_StoreShown_": _page(_STORE),
    "StoreFileShown": [_STORE_FILE],
    "Listing_StoreFileShown_": _page(_STORE_FILE),
    "BatchShown": [
        {
            "id": BATCH_ID,
            "object": "vector_store.files_batch",
            "created_at": _AT,
            "vector_store_id": STORE_ID,
            "status": "completed",
            "file_counts": _COUNTS,
        }
    ],
    "ParsedContent": [
        {
            "object": "vector_store.file_content.page",
            "data": [{"type": "text", "text": f"# Pump\n\n{_QUOTE}"}],
            "has_more": False,
            "next_page": None,
        }
    ],
    "SearchResults": [
        {
            "object": "vector_store.search_results.page",
            "search_query": ["How much does the D40 weigh?"],
            "data": [
                {
                    "file_id": FILE_ID,
                    "filename": "pump.md",
                    "score": 0.83,
                    "attributes": {"year": 2024},
                    "content": [{"type": "text", "text": _QUOTE}],
                    "place": {"start": 8, "end": 46, "page": None, "section": "Pump"},
                }
            ],
            "has_more": False,
            "next_page": None,
        }
    ],
    "ResponseShown": [
        {
            "id": RESPONSE_ID,
            "object": "response",
            "created_at": _AT,
            "completed_at": _AT,
            "status": "completed",
            "model": "youju:handbook",
            "output": [
                {
                    "type": "message",
                    "id": "msg_019ab3c2e1a2b3c4d5e6f708",
                    "status": "completed",
                    "role": "assistant",
                    "content": [
                        {
                            "type": "output_text",
                            "text": _ANSWER,
                            "annotations": [_CITATION],
                            "logprobs": [],
                        }
                    ],
                }
            ],
            "tools": [],
            "tool_choice": "auto",
            "metadata": {"refused": "false"},
            "text": {"format": {"type": "text"}},
            "usage": {"input_tokens": 9, "output_tokens": 14, "total_tokens": 23},
            "youju": _ACCOUNT,
        }
    ],
    "ResponseDeleted": [{"id": RESPONSE_ID, "object": "response", "deleted": True}],
    "ChatShown": [
        {
            "id": "chatcmpl-019ab3c2e1a2b3c4d5e6f708",
            "object": "chat.completion",
            "created": _AT,
            "model": "youju:handbook",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": _ANSWER,
                        "refusal": None,
                        "annotations": [
                            {
                                "type": "url_citation",
                                "url_citation": {
                                    "start_index": 39,
                                    "end_index": 42,
                                    "title": "pump.md",
                                    "url": f"http://localhost:8000/v1/vector_stores/{STORE_ID}"
                                    f"/files/{FILE_ID}/content#char=8,46",
                                },
                                "file_citation": _CITATION,
                            }
                        ],
                    },
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 14, "total_tokens": 23},
            "youju": _ACCOUNT,
        }
    ],
    "FeedbackShown": [_FEEDBACK],
    "Listing_FeedbackShown_": _page(_FEEDBACK),
    "EmbeddingList": [
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8]}],
            "model": "all-MiniLM-L6-v2",
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
    ],
    "Records": [
        {
            "records": [
                {
                    "content": _ZH,
                    "score": 0.71,
                    "title": "员工手册.pdf",
                    "metadata": {
                        "year": 2024, "file_id": FILE_ID, "page": 12, "start": 5120, "end": 5130,
                    },
                }
            ]
        }
    ],
    "RetrievalFault": [{"error_code": 2001, "error_msg": "No vector store with id 'vs_0'."}],
    "Alive": [{"status": "ok"}],
    "Ready": [{"status": "waiting", "waiting": {"models": "loading"}}],
    "ModelShown": [_MODEL],
    "Listing_ModelShown_": _page(_MODEL),
    "Deleted": [{"id": FILE_ID, "object": "file", "deleted": True}],
    "ErrorShown": [
        {
            "error": {
                "message": "No file with id 'file-0'.",
                "type": "invalid_request_error",
                "param": "id",
                "code": "file_not_found",
            }
        }
    ],
}  # fmt: skip
"""Of bodies, by the name of the schema."""

OTHER_EXAMPLES: Final[dict[tuple[str, str], Any]] = {
    ("create_response", "text/event-stream"): {
        "event": "response.output_text.delta",
        "data": '{"type":"response.output_text.delta","sequence_number":7,"output_index":1,'
        '"content_index":0,"item_id":"msg_019ab3c2e1a2b3c4d5e6f708","delta":"D40 重 185 公斤。",'
        '"logprobs":[]}',
    },
    ("create_chat_completion", "text/event-stream"): {
        "data": '{"id":"chatcmpl-019ab3c2e1a2b3c4d5e6f708","object":"chat.completion.chunk",'
        '"created":1763985600,"model":"youju:handbook","choices":[{"index":0,"delta":'
        '{"content":"D40 重 185 公斤。"},"logprobs":null,"finish_reason":null}]}',
    },
    ("export_feedback", "application/jsonl"): (
        '{"conversations": [{"role": "user", "content": "D40 有多重？"}, '
        '{"role": "assistant", "content": "185 公斤。"}]}\n'
    ),
    ("get_file_content", "application/octet-stream"): f"# Pump\n\n{_QUOTE}\n",
    ("metrics", "text/plain"): "youju_requests_running 1.0\n",
}
"""Of answers that are no JSON, by operation and media type."""
