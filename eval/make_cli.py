"""`youju eval make` and `youju eval accept`: parse arguments, print results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from rag.terminal import count, print_json, progress_bar, say


def make(
    out: Annotated[Path, typer.Option("--out", show_default=False, help="Folder of the set.")],
    store: Annotated[
        str | None, typer.Option("--store", help="Whose passages; else the setting `store`.")
    ] = None,
    questions: Annotated[
        int, typer.Option("--questions", min=1, help="Questions drafted at most.")
    ] = 50,
    by: Annotated[
        Literal["auto", "rules", "generator"],
        typer.Option("--by", help="Who drafts; auto: the generator if one is set."),
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the draw of passages.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draft a test set from a store.

    Questions by the generator, or by rules: sentences with a gap, headings. Edit the table
    drafts.csv, write yes or no into its column keep, then run `youju eval accept`.
    """
    from eval.make import DRAFTS, draft_set
    from rag.build import build_rag
    from rag.config import load_settings
    from rag.prompt import Message

    rag = build_rag(load_settings({"store": store}).settings)
    ask: Callable[[str], str] | None = None
    if by == "generator" or (by == "auto" and rag.settings.generator != "extractive"):
        talker = rag.talker

        def ask(prompt: str) -> str:
            return talker.say([Message("user", prompt)]).text

    with progress_bar("Drafting") as advance:
        made = draft_set(
            rag.catalog.get(rag.settings.store), out, questions=questions, seed=seed, say=ask,
            progress=advance,
        )  # fmt: skip
    if as_json:
        print_json(
            {"passages": made.passages, "questions": made.questions, "unusable": made.unusable}
        )
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in made.questions.items()) or "none"
    dropped = f"; {made.unusable} replies of the generator were unusable" if made.unusable else ""
    say(f"{count(made.passages, 'passage')}, drafts: {kinds}{dropped}.")
    say(f"Review {out / DRAFTS}, then run `youju eval accept {out}`.")


def accept(
    folder: Annotated[Path, typer.Argument(show_default=False, help="What `eval make` wrote.")],
    unreviewed: Annotated[
        bool, typer.Option("--unreviewed", help="Keep drafts without yes or no, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a test set of the drafts that were kept."""
    from eval.make import accept as accept_drafts

    kept = accept_drafts(folder, unreviewed=unreviewed)
    if as_json:
        print_json({"questions": kept})
        return
    say(f"{count(kept, 'question')}. Next: `youju eval retrieval --data {folder}`.")
