"""The one console script: `youju <verb>`. It parses arguments, prints results, decides nothing.

An error is one line on standard error; exit status 2 says that the request was wrong, 1 that
something failed or that some files were refused.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import keys_app, serve
from eval.cli import app as eval_app
from ingest import cli as ingest_cli
from ingest.cli import JsonOption, StoreOption
from ingest.jobs_cli import jobs_app, worker
from rag.backup import cli as backup_cli
from rag.errors import UsageError, YoujuError
from rag.glm.cli import TERMINATED
from rag.glm.cli import app as glm_app
from rag.terminal import complain, one_line, place, print_json, print_table, say

if TYPE_CHECKING:
    from rag.schema import Answer, Hit


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"youju {version('youju')}")
        raise typer.Exit


app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Ask your own documents, and get answers whose citations can be checked.",
    epilog="Add --debug to any command to see the traceback of an error.",
)
app.command()(ingest_cli.ingest)
app.command()(ingest_cli.sync)


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

_GOES_ON = frozenset({"ingest", "sync", "delete", "reindex"})
"""Verbs that commit as they go."""

TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", "-k", help="Passages to use, 1 to 100; else the setting `top_k`."),
]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(show_default=False, help="In Chinese or English.")],
    store: StoreOption = None,
    top_k: TopKOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question with citations, or refuse.

    It refuses when the documents hold too little evidence for an answer.
    """
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"store": store, "top_k": top_k}).settings)
    answer = rag.open(rag.settings.store).ask(question)
    if as_json:
        print_json(answer_json(rag.settings.store, answer))
    else:
        _print_answer(answer)


@app.command()
def search(
    query: Annotated[str, typer.Argument(show_default=False, help="Words or a question.")],
    store: StoreOption = None,
    top_k: TopKOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the passages found for a query, best first."""
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"store": store, "top_k": top_k}).settings)
    hits = rag.open(rag.settings.store).search(query)
    if as_json:
        found = [_hit_json(hit) for hit in hits]
        print_json({"query": query, "store": rag.settings.store, "hits": found})
        return
    if not hits:
        say("Nothing in the store matches.")
    for number, hit in enumerate(hits, start=1):
        say(f"{number}. {place(hit.chunk.file, hit.chunk.page)}   score {hit.score:.3f}")
        say("   " + one_line(hit.chunk.text, 240))


@app.command()
def stores(as_json: JsonOption = False) -> None:
    """List the stores."""
    from rag.build import build_rag
    from rag.config import load_settings

    found = build_rag(load_settings().settings).catalog.stores()
    if as_json:
        print_json({"stores": [asdict(info) for info in found]})
    elif not found:
        say("No stores yet. Make one: youju ingest PATH")
    else:
        rows = [
            [info.name, info.project, str(info.documents), str(info.chunks), info.embedder]
            for info in found
        ]
        print_table(["store", "project", "documents", "chunks", "embedder"], rows)


@app.command()
def files(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the files of a store."""
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"store": store}).settings)
    found = rag.catalog.get(rag.settings.store).documents()
    if as_json:
        print_json({"store": rag.settings.store, "files": [asdict(info) for info in found]})
        return
    rows = [
        [info.name, str(info.pages or "-"), str(info.chunks), f"{info.size:,}", info.title]
        for info in found
    ]
    print_table(["file", "pages", "chunks", "bytes", "title"], rows)


@app.command()
def show(
    file: Annotated[str, typer.Argument(show_default=False, help="A name from `youju files`.")],
    store: StoreOption = None,
    start: Annotated[int, typer.Option(min=0, help="First character.")] = 0,
    end: Annotated[int | None, typer.Option(min=0, help="One past the last character.")] = None,
) -> None:
    """Print a file's parsed text, or part of it.

    `--start` and `--end` are those of a citation.
    """
    from rag.build import build_rag
    from rag.config import load_settings

    rag = build_rag(load_settings({"store": store}).settings)
    text = rag.catalog.get(rag.settings.store).document(file).text
    end = len(text) if end is None else end
    if not start <= end <= len(text):
        raise UsageError(
            f"Got --start {start} --end {end}; {file} has {len(text):,} characters.",
            do="Expected 0 <= start <= end <= that number.",
        )
    say(text[start:end])


app.command()(serve)
app.add_typer(keys_app, name="keys")
app.command()(worker)
app.add_typer(jobs_app, name="jobs")
app.command()(ingest_cli.delete)
app.command()(ingest_cli.reindex)
app.command()(backup_cli.backup)
app.command()(backup_cli.restore)
app.add_typer(eval_app, name="eval")
app.add_typer(glm_app, name="glm")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed and what is missing.

    With the device and the models in use; the exit status is 1 if something is missing.
    """
    from rag.config import load_settings
    from rag.doctor import examine

    findings = examine(load_settings().settings)
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        rows = [[finding.status, finding.what, finding.detail] for finding in findings]
        print_table(["status", "what", "found"], rows)
    if any(finding.status == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command()
def config(as_json: JsonOption = False) -> None:
    """List every setting, its value and origin."""
    from rag.config import load_settings

    rows = load_settings().rows()
    if as_json:
        print_json({"settings": [asdict(row) for row in rows]})
    else:
        shown = [["" if row.value is None else str(row.value), row.origin] for row in rows]
        print_table(
            ["setting", "value", "from"],
            [[row.name, *cells] for row, cells in zip(rows, shown, strict=True)],
        )


def answer_json(store: str, answer: Answer) -> dict[str, object]:
    """Return what `youju ask --json` prints; its keys are part of the interface."""
    return {
        "answer": answer.text,
        "refused": answer.refused,
        "unsupported": list(answer.unsupported),
        "citations": [asdict(citation) for citation in answer.citations],
        "store": store,
        "dropped": answer.dropped,
        "finish": answer.finish,
        "timings": {step: round(seconds, 4) for step, seconds in answer.timings.items()},
    }


def main() -> None:
    """Run the command line; never returns."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    else:
        sys.excepthook = _one_line_excepthook
    sys.exit(run(arguments, debug=debug))


def run(arguments: list[str], *, debug: bool) -> int:
    """Run one command and return its exit status; what goes wrong is told in one line.

    Args:
        arguments: What stands after `youju`.
        debug: Print the traceback of an error, too.
    """
    try:
        status = _status(arguments)
        sys.stdout.flush()
    except YoujuError as error:
        if debug:
            traceback.print_exc()
        complain(str(error))
        return error.exit_code
    except typer.TyperException as error:
        message = error.format_message().replace("Value error, ", "")
        if message.startswith("Usage:"):  # no arguments: the message is the help itself
            sys.stderr.write(message + "\n")
        else:
            ctx = getattr(error, "ctx", None)
            path = ctx.command_path if ctx is not None else "youju"
            stop = "" if message.endswith((".", "?", "!")) else "."
            complain(f"{message}{stop} See `{path} --help`.")
        return 2
    except typer.Abort:
        complain("Not confirmed; nothing was done.")
        return 1
    except BrokenPipeError:  # the reader of a pipe has gone: nobody is left to tell
        _discard_output()
        return 0
    except OSError as error:
        if debug:
            traceback.print_exc()
        _discard_output()
        where = f"use {error.filename}" if error.filename is not None else "write the output"
        complain(f"Cannot {where}: {error.strerror or error}.")
        return 1
    if status in (INTERRUPTED, TERMINATED):
        complain(_stopped(arguments))
    return status if isinstance(status, int) else 0


def _status(arguments: list[str]) -> object:
    # Not app(...): that would put a hook for uncaught errors of its own in place of ours.
    command = typer.main.get_command(app)
    try:
        return command(args=arguments, prog_name="youju", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:
        if stop.code != TERMINATED:
            raise
        return TERMINATED


def _stopped(arguments: list[str]) -> str:
    verb = arguments[0] if arguments else ""
    if verb in _GOES_ON:
        return "Stopped; what was committed before is kept. Run it again to go on."
    return "Stopped; nothing was written." if verb == "glm" else "Stopped."


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line_excepthook(
    kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    complain(f"Unexpected {kind.__name__}: {error}. Run it again with --debug, and report it.")


def _print_answer(answer: Answer) -> None:
    say(answer.text)
    if answer.citations:
        say()
    for number, citation in enumerate(answer.citations, start=1):
        where = place(citation.file, citation.page)
        say(f"[{number}] {where}, characters {citation.start}-{citation.end}")
        say(f"    “{one_line(citation.quote, 300)}”")
    for sentence in answer.unsupported:
        say(f"Not supported by the documents: {one_line(sentence, 300)}")
    if answer.finish == "length":
        say("The answer was cut off at its limit; raise generator_max_tokens for a longer one.")
    if answer.dropped:
        say(f"Found, but not shown to the model for want of room: {answer.dropped} passages.")


def _hit_json(hit: Hit) -> dict[str, object]:
    chunk = hit.chunk
    return {
        "file": chunk.file,
        "page": chunk.page,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "score": hit.score,
        "bm25": hit.bm25,
        "cosine": hit.cosine,
    }


if __name__ == "__main__":
    main()
