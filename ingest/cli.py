"""The commands that change a store: `youju ingest`, `sync`, `delete` and `reindex`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.sync_output import SyncPrinter, skipped_formats, stopped_by_signals
from rag.errors import PathError, UsageError, YoujuError
from rag.terminal import complain, count, print_json, progress_bar, say

if TYPE_CHECKING:
    from ingest.pipeline import IngestReport, Work

StoreOption = Annotated[
    str | None, typer.Option("--store", "-s", help="Store to use; else the setting `store`.")
]
_MOST_PAIRS = 20  # near duplicates that are printed

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
    done: list[Work] = []
    try:
        with progress_bar("Ingesting") as advance:
            report = ingest_durably(
                rag,
                name,
                list(map(Path, paths)),
                prune=prune,
                progress=advance,
                tell=told.append,
                broken_off=done.append,
            )
    except YoujuError:
        _complain_of_the_rest(done)
        raise
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


def sync(
    folder: Annotated[str, typer.Argument(help="The folder.", show_default=False)],
    store: StoreOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on following changes, until Ctrl-C or SIGTERM.")
    ] = False,
    poll: Annotated[
        bool, typer.Option("--poll", help="Watch by looking every second (network drives).")
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, help="Watch: seconds between two looks at everything.")
    ] = 600.0,
    yes_delete: Annotated[
        bool, typer.Option("--yes-delete", help="Delete also more than half of the documents.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a store equal to a folder: add, replace, move, delete.

    Unchanged files are not read, and moved ones not parsed again. Files of `.youjuignore` (written
    as git's are) are left out. What came from elsewhere than the folder stays.
    """
    from ingest.sync_job import sync_folder, watch_folder
    from ingest.watch import Watching
    from rag.build import build_rag
    from rag.config import load_settings

    if folder == "":
        raise _empty_path()
    if poll and not watch:
        raise UsageError("--poll is a way to watch.", do="Add --watch.")
    rag = build_rag(load_settings({"store": store}).settings)
    show = SyncPrinter(rag.settings.store, folder, as_json=as_json, lines=watch)
    if watch:
        with stopped_by_signals() as stop:
            how = Watching(stop, show.report, show.tell, poll=poll, every_s=every)
            totals = watch_folder(rag, rag.settings.store, Path(folder), how, yes_delete=yes_delete)
        show.totals(totals)
        return
    with progress_bar("Syncing") as advance:
        report = sync_folder(
            rag, rag.settings.store, Path(folder), yes_delete=yes_delete, progress=advance
        )
    show.report(report)
    if report.refused or report.held:
        raise typer.Exit(1)


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
        "near_duplicates": [asdict(pair) for pair in report.near_duplicates],
        "seconds": round(report.seconds, 3),
    }


def _complain_of_the_rest(done: Sequence[Work]) -> None:
    """Name what was refused until an error ended the run, and say how much was stored."""
    for work in done:
        for item in sorted(work.rejected, key=lambda item: item.name):
            complain(f"{item.name}: {item.message}")
        if work.outcomes or work.rejected:
            stored = len(work.outcomes)
            complain(f"The run was broken off; {count(stored, 'file')} of it in the store.")


def _print_report(store: str, report: IngestReport) -> None:
    say(
        f"Store {store}: {report.count('added')} added, {report.count('replaced')} replaced, "
        f"{report.count('unchanged')} unchanged"
        + (f", {len(report.pruned)} removed" if report.pruned else "")
        + (f", {skipped_formats(report.skipped)} skipped" if report.skipped else "")
        + f"; {count(report.chunks, 'new chunk')} in {report.seconds:.1f} s."
    )
    for file, text in report.warnings:
        say(f"Note: {file}: {text}")
    for pair in report.near_duplicates[:_MOST_PAIRS]:
        say(f"Note: {pair.file} says nearly the same as {pair.other} ({pair.similarity:.0%}).")
    if len(report.near_duplicates) > _MOST_PAIRS:
        say(f"Note: so do {len(report.near_duplicates) - _MOST_PAIRS:,} others; --json lists them.")
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
