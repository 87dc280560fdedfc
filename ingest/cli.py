"""The commands that change a store: `youju ingest`, `delete` and `reindex`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import PathError, UsageError
from rag.terminal import complain, count, print_json, progress_bar, say

if TYPE_CHECKING:
    from ingest.pipeline import IngestReport

StoreOption = Annotated[
    str | None, typer.Option("--store", "-s", help="Store to use; else the setting `store`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def ingest(
    paths: Annotated[list[str], typer.Argument(help="Files and folders.", show_default=False)],
    store: StoreOption = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove documents whose file is gone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add files and folders to a store.

    What it holds already is not done again; a file that has changed replaces what was there.
    """
    from ingest.folder_job import ingest_durably
    from rag.build import build_rag
    from rag.config import load_settings

    if "" in paths:
        raise _empty_path()
    rag = build_rag(load_settings({"store": store}).settings)
    name = rag.settings.store
    told: list[str] = []
    with progress_bar("Ingesting") as advance:
        report = ingest_durably(
            rag, name, list(map(Path, paths)), prune=prune, progress=advance, tell=told.append
        )
    for sentence in () if as_json else told:
        say(sentence)
    if as_json:
        print_json(report_json(name, report))
    else:
        _print_report(name, report)
    if report.rejected:
        raise typer.Exit(1)


def delete(
    files: Annotated[
        list[str] | None, typer.Argument(show_default=False, help="Names from `youju files`.")
    ] = None,
    store: StoreOption = None,
    under: Annotated[
        str | None, typer.Option(help="Delete what came from this folder, there or not.")
    ] = None,
    whole_store: Annotated[
        bool, typer.Option("--all", help="Delete the store itself, with every file in it.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before everything is deleted.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete files from a store, or a whole store."""
    from ingest.job import delete_files, delete_store, files_under
    from rag.build import build_rag
    from rag.config import load_settings

    if [whole_store, bool(files), under is not None].count(True) != 1:
        raise UsageError(
            "Expected one of file names, --under FOLDER and --all.", do="Give one of the three."
        )
    if under == "":
        raise _empty_path()
    rag = build_rag(load_settings({"store": store}).settings)
    name = rag.settings.store
    held = len(rag.catalog.get(name).hashes())
    if whole_store:
        if not yes:
            _confirm(f"Delete store {name} with {count(held, 'file')}?")
        deleted = delete_store(rag, name)
    else:
        names = files_under(rag, name, Path(under)) if under else files or []
        if under and len(names) == held and not yes:  # also what `--under "$UNSET/"` comes to
            _confirm(f"Delete every file of store {name}, {held:,} in all?")
        deleted = delete_files(rag, name, names)
    if as_json:
        print_json({"store": name, "deleted": deleted, "all": whole_store})
    elif whole_store:
        say(f"Deleted store {name} with its {count(deleted, 'file')}.")
    else:
        say(f"Deleted {count(deleted, 'file')} from store {name}.")


def _empty_path() -> PathError:
    """Of an unset shell variable, say; taken as a path it would mean the current folder."""
    return PathError("Got an empty path.", do="Give a file or folder; `.` is this folder.")


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("That deletes everything in the store.", do="Add --yes if that is meant.")
    typer.confirm(question, abort=True, err=True)


def reindex(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Cut and embed a store's documents again.

    With the embedder and the chunk size now set; until it is done the store answers as before.
    """
    from ingest.job import reindex_store
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"store": store}).settings)
    name = rag.settings.store
    with progress_bar("Reindexing") as advance:
        report = reindex_store(rag, name, progress=advance)
    if as_json:
        print_json({"store": name} | asdict(report))
    else:
        say(
            f"Store {name}: {count(report.documents, 'document')}, "
            f"{count(report.chunks, 'chunk')}, embedder {report.embedder}."
        )


def report_json(store: str, report: IngestReport) -> dict[str, object]:
    """Return what `youju ingest --json` prints."""
    names: dict[str, list[str]] = {"added": [], "replaced": [], "unchanged": []}
    for name, outcome in report.outcomes.items():
        names[outcome].append(name)
    return {
        "store": store,
        **names,
        "pruned": list(report.pruned),
        "rejected": [
            {"file": item.name, "reason": item.reason, "message": item.message}
            for item in report.rejected
        ],
        "skipped": sum(report.skipped.values()),
        "skipped_formats": report.skipped,
        "lost": report.lost,
        "chunks": report.chunks,
        "warnings": [{"file": file, "message": text} for file, text in report.warnings],
        "seconds": round(report.seconds, 3),
    }


def _print_report(store: str, report: IngestReport) -> None:
    say(
        f"Store {store}: {report.count('added')} added, {report.count('replaced')} replaced, "
        f"{report.count('unchanged')} unchanged"
        + (f", {len(report.pruned)} removed" if report.pruned else "")
        + (f", {_skipped(report.skipped)} skipped" if report.skipped else "")
        + f"; {count(report.chunks, 'new chunk')} in {report.seconds:.1f} s."
    )
    for file, text in report.warnings:
        say(f"Note: {file}: {text}")
    for folder, documents in report.lost.items():
        say(
            f"Note: {folder} is gone; what came from it ({count(documents, 'document')}) is kept "
            "until `youju delete --under` names it."
        )
    for item in report.rejected:
        complain(f"{item.name}: {item.message}")
    if report.rejected:
        rest = "the others are in the store" if report.outcomes else "no other file was found"
        complain(f"{count(len(report.rejected), 'file')} not ingested; {rest}.")


def _skipped(formats: dict[str, int]) -> str:
    """Return "12 of other formats (.xlsx 9, .pptx 2, ...)", the most frequent first."""
    named = ", ".join(f"{suffix or 'no suffix'} {n}" for suffix, n in list(formats.items())[:5])
    return f"{sum(formats.values())} of other formats ({named}{', …' if len(formats) > 5 else ''})"
