"""`youju backup` and `youju restore`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rag.errors import PathError
from rag.terminal import complain, count, print_json, progress_bar, say

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def backup(
    file: Annotated[str, typer.Argument(show_default=False, help="Where to; a .tar.gz file.")],
    as_json: JsonOption = False,
) -> None:
    """Write everything that cannot be made again into one file.

    The database and the uploaded files, in one consistent state, while a server runs and ingests.
    An older backup of that name is replaced once the new one is whole.
    """
    from rag.backup.save import save
    from rag.build import build_rag
    from rag.config import load_settings
    from rag.store.blobs import Blobs

    rag = build_rag(load_settings().settings)
    with progress_bar("Backing up, MiB") as advance:
        done = save(rag.db, Blobs(rag.settings.blobs_folder), _path(file), progress=advance)
    if as_json:
        print_json(asdict(done) | {"seconds": round(done.seconds, 3)})
    else:
        say(
            f"Wrote {done.file}: {count(done.stores, 'store')}, "
            f"{count(done.documents, 'document')}, {count(done.files, 'file')}; "
            f"{done.bytes:,} bytes in {done.seconds:.1f} s."
        )
    _complain_of(done.missing, "are damaged or gone here, and not in the backup")


def restore(
    file: Annotated[str, typer.Argument(show_default=False, help="A file of `youju backup`.")],
    home: Annotated[
        Path | None, typer.Option(help="Home folder to restore into; else the setting `home`.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move aside what the home folder holds already.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a backup back.

    Everything is checked before anything is changed. Servers must be stopped; indexes are built
    anew at first use. Keys, projects and answers are as they were when the backup was written.
    """
    from rag.backup.restore import restore as put_back
    from rag.config import load_settings

    settings = load_settings({"home": home}).settings
    with progress_bar("Restoring, MiB") as advance:
        done = put_back(_path(file), settings, force=force, progress=advance)
    if as_json:
        print_json(asdict(done))
    else:
        moment = datetime.fromtimestamp(done.created_at, UTC)
        say(
            f"Restored {count(done.stores, 'store')}, {count(done.documents, 'document')} and "
            f"{count(done.files, 'file')} of {moment:%Y-%m-%d %H:%M} UTC to {done.home}."
        )
        if done.aside is not None:
            say(f"What was there before is in {done.aside}; delete it when all is well.")
    _complain_of(done.missing, "have no bytes in this backup; upload them again")


def _path(file: str) -> Path:
    if not file:
        raise PathError("Got an empty path.", do="Give the name of a file.")
    return Path(file).absolute()


def _complain_of(missing: tuple[str, ...], what: str) -> None:
    """Tell of uploaded files whose bytes are missing, and end with status 1."""
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        complain(f"{count(len(missing), 'uploaded file')} {what}: {named}.")
        raise typer.Exit(1)
