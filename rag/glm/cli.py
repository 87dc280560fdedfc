"""The commands of the ChatGLM3 workshop: `youju glm convert` and the like.

The one place in rag that parses arguments. PyTorch is imported when one of them runs, not before.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from rag.terminal import print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from rag.glm.checkpoint import Written

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DtypeOption = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option("--dtype", help="Of the written weights; else as they are stored."),
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Fetch a model named like THUDM/chatglm3-6b.")
]
TargetArgument = Annotated[
    Path, typer.Argument(metavar="DST", show_default=False, help="A new folder.")
]


TERMINATED = 143
"""Exit status after SIGTERM, as shells have it."""


@app.callback()
def workshop(context: typer.Context) -> None:
    """Convert, inspect and merge ChatGLM3 models."""
    context.with_resource(_ended_by_sigterm())


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the command as Ctrl-C does, so that no half-written folder is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="Of a model or adapter.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what a folder holds.

    A model in the official or the native layout, a LoRA adapter, a P-Tuning prefix.
    """
    from rag.glm.inspection import inspect_folder

    found = inspect_folder(folder).to_json()
    if as_json:
        print_json(found)
    else:
        print_table(["what", "found"], [[name, _shown(value)] for name, value in found.items()])


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", show_default=False, help="Official folder, or hub name."),
    ],
    target: TargetArgument,
    dtype: DtypeOption = None,
    download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a native folder of an official one.

    Plain transformers loads it, without remote code. Quantised weights are unpacked.
    """
    from rag.glm.checkpoint import convert as convert_folder
    from rag.glm.hub import find_checkpoint

    folder = find_checkpoint(source, download=download)
    with progress_bar("Converting") as advance:
        written = convert_folder(folder, target, dtype=dtype, progress=advance)
    _print_written(written, as_json)


@app.command()
def quantize(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", show_default=False, help="Official or native folder.")
    ],
    target: TargetArgument,
    bits: Annotated[int, typer.Option("--bits", help="8 or 4, of a weight.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Make a model of 8 or 4 bits a weight.

    A half or a quarter of the size, and faster on a CPU; loaded here only.
    """
    from rag.errors import UsageError
    from rag.glm.quantize import quantize as quantize_folder

    if bits not in (8, 4):
        raise UsageError(f"Got --bits {bits}, expected 8 or 4.", do="Choose one of the two.")
    with progress_bar("Quantising") as advance:
        written = quantize_folder(source, target, 8 if bits == 8 else 4, progress=advance)
    _print_written(written, as_json)


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", show_default=False, help="Native folder.")
    ],
    target: TargetArgument,
    as_json: JsonOption = False,
) -> None:
    """Make an official folder of a native one.

    The same tensors bit for bit, under their official names.
    """
    from rag.glm.checkpoint import export as export_folder

    with progress_bar("Exporting") as advance:
        written = export_folder(source, target, progress=advance)
    _print_written(written, as_json)


@app.command()
def adapt(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", show_default=False, help="What it was trained on.")
    ],
    adapter: Annotated[
        Path,
        typer.Argument(metavar="ADAPTER", show_default=False, help="LoRA or P-Tuning v2 folder."),
    ],
    target: TargetArgument,
    as_json: JsonOption = False,
) -> None:
    """Make a peft adapter of an official one.

    For the native model: LoRA on the fused projections is split, a P-Tuning prefix is rotated.
    """
    from rag.glm.merge import adapt as adapt_folder

    kind = adapt_folder(model, adapter, target)
    if as_json:
        print_json({"folder": str(target), "kind": kind})
    else:
        say(f"Wrote the {kind} adapter to {target}.")


@app.command()
def merge(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", show_default=False, help="What it was trained on.")
    ],
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", show_default=False, help="LoRA folder.")
    ],
    target: TargetArgument,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a LoRA adapter to a model's weights.

    Model and adapter may each be official or native; the result is native.
    """
    from rag.glm.merge import merge as merge_folders

    with progress_bar("Merging") as advance:
        written = merge_folders(model, adapter, target, dtype=dtype, progress=advance)
    _print_written(written, as_json)


def _print_written(written: Written, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "folder": str(written.folder),
                "parameters": written.parameters,
                "dtype": written.dtype,
                "files": list(written.files),
                "dequantized": written.dequantized,
                "bits": written.bits,
                "tokenizer": written.tokenizer,
            }
        )
        return
    stored = f"{written.bits} bits and {written.dtype}" if written.bits else written.dtype
    say(f"Wrote {written.parameters:,} parameters as {stored} to {written.folder}.")
    if written.dequantized:
        say(f"The source was quantised to {written.dequantized} bits; this is not.")
    if not written.tokenizer:
        say("Note: no tokenizer, for the source has no tokenizer.model.")


def _shown(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value in (None, "") else str(value)
