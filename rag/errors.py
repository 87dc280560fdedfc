"""Every error a user can meet, and nothing else.

    YoujuError                     exit 1
    ├── UsageError                 exit 2   what was asked for cannot be done
    │   ├── ConfigError                     a setting is unknown, or its value out of range
    │   ├── PathError                       a path is missing, unreadable or holds no documents
    │   ├── SyncRunning                     a folder is being synced already
    │   ├── QueryError                      a question is empty, too long or not text
    │   ├── FilterError                     a filter on attributes is not of the expected form
    │   ├── ChatError                       a message's role or a training example cannot be used
    │   ├── PromptTooLong                   a prompt leaves a model no room to answer
    │   ├── UnknownStore                    no store of that name
    │   ├── UnknownFile                     no file of that name in the store
    │   ├── UnknownKey                      no API key of that id
    │   ├── AlreadyThere                    a file is in a store already, put in otherwise
    │   ├── CursorError                     a place in a list is not in that list
    │   ├── QuotaError                      a project's files take all the room it may have
    │   ├── TooLarge                        a file has more bytes than may be uploaded
    │   ├── UploadError                     the parts of an upload are not what was announced
    │   ├── BackupError                     a backup is damaged, too new, or in the way of data
    │   └── IndexMismatch                   the store was made by another embedder
    │       └── ChunkerMismatch             or its documents were cut up by another chunker
    ├── DocumentRejected           exit 1   one file was refused; the others go on
    ├── StorageError               exit 1   the home folder or the database cannot be used now
    │   └── StorageBusy                     others are in the way; asking again soon can succeed
    ├── ModelError                 exit 1   a model is missing, damaged or does not answer
    │   ├── MissingExtra                    an optional package is not installed
    │   ├── CheckpointError                 a model folder is not what it should be, or damaged
    │   ├── AdapterMismatch                 an adapter was trained on another model
    │   ├── GenerationFailed                one request failed inside the model; others go on
    │   │   └── OutOfMemory                 memory did not suffice for it
    │   ├── QueueFull                       too many requests at once; this one was not taken
    │   ├── EngineClosed                    the model was closed while or before it was asked
    │   └── ToolCallError                   a model's tool call cannot be read
    └── EvalDataError              exit 2   an evaluation folder is not in the expected layout

Each message says what was got, what was expected and what to do, in one line.
"""

from __future__ import annotations


class YoujuError(Exception):
    """The root: anything the program reports in one line instead of a traceback.

    Args:
        message: What was got and what was expected.
        do: What the user can do about it; joined to the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, do: str = "") -> None:
        self.message = message
        self.do = do
        super().__init__(f"{message} {do}".strip())


class UsageError(YoujuError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, or its value is not allowed."""


class PathError(UsageError):
    """A path is missing, unreadable or holds no documents."""


class SyncRunning(UsageError):
    """A folder is being synced into the same store by another process."""


class QueryError(UsageError):
    """A question is empty, too long, or holds no text."""


class FilterError(UsageError):
    """A filter on attributes is not of the expected form; the message says where in it."""


class ChatError(UsageError):
    """A message has an unknown role, or a training example is not of the expected form."""


class PromptTooLong(UsageError):
    """A prompt fills the model's context, so that no room for an answer is left."""


class UnknownStore(UsageError):
    """No store of that name."""


class UnknownFile(UsageError):
    """No file of that name in the store."""


class AlreadyThere(UsageError):
    """A file is in a store already, with settings that are not those now asked for."""


class UnknownKey(UsageError):
    """No API key of that id."""


class CursorError(UsageError):
    """A page of a list was asked for by an object that is not in the list."""


class QuotaError(UsageError):
    """A project's files would take more room than it may have."""


class TooLarge(UsageError):
    """A file has more bytes than may be uploaded."""


class UploadError(UsageError):
    """The parts of an upload are not those, or not as many bytes, as was announced."""


class BackupError(UsageError):
    """A backup is damaged or of a newer version, or what is there would be lost."""


class IndexMismatch(UsageError):
    """The store's vectors were made by another embedder than the configured one."""


class ChunkerMismatch(IndexMismatch):
    """The store's documents were cut up otherwise than is now configured."""


class DocumentRejected(YoujuError):
    """One file cannot be ingested: wrong format, damaged, encrypted, too large, ...

    Args:
        message: The reason, naming its cause.
        reason: A stable machine-readable word: "encrypted", "damaged", "too-large",
            "unsupported", "not-text", "empty", "limit", "needs-ocr", "outside", "unreadable",
            "changing".
        do: What the user can do about it.
    """

    def __init__(self, message: str, *, reason: str, do: str = "") -> None:
        self.reason = reason
        super().__init__(message, do=do)


class StorageError(YoujuError):
    """The home folder or the database cannot be used now: read-only, full, locked, damaged."""


class StorageBusy(StorageError):
    """Others use the database so much that this could not be done; nothing was changed."""


class ModelError(YoujuError):
    """A model is missing, damaged, unreachable or answers nonsense."""


class MissingExtra(ModelError):
    """An optional package is needed and not installed.

    Args:
        what: What needs it, for example "GPU search".
        extra: The extra that brings it, for example "gpu".
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package.", do=f"pip install 'youju[{extra}]'")


class CheckpointError(ModelError):
    """A model folder is of another family, incomplete, damaged, or holds code."""


class AdapterMismatch(ModelError):
    """An adapter does not belong to the model it is to be put on."""


class GenerationFailed(ModelError):
    """One request failed while the model computed it; the others are not affected."""


class OutOfMemory(GenerationFailed):
    """Memory of the processor or the GPU did not suffice for a request."""


class QueueFull(ModelError):
    """As many requests run and wait as may; asking again later can succeed."""


class EngineClosed(ModelError):
    """The model was closed, or broke down, while or before it was asked."""


class ToolCallError(ModelError):
    """What a model wrote as a tool call cannot be read as one; nothing was called."""


class EvalDataError(YoujuError):
    """An evaluation folder is not in the layout it should have."""

    exit_code = 2
