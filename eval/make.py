r"""Makes a test set from a store: drafts questions, which people review in a table.

    corpus.jsonl   every passage of the store, as it is embedded
    drafts.csv     a row a question: keep, question, answer, source (passages that answer it), ...
    queries.jsonl, qrels/test.tsv, answers.jsonl   made of the rows kept, by `accept`

The table is what is edited: `keep` is "yes" or "no", questions and answers may be reworded. Cells
that a spreadsheet would take for a formula are written with an apostrophe before them.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.drafts import Draft, cloze, generated, heading
from eval.files import write_whole
from rag.errors import EvalDataError, PathError, UsageError
from rag.schema import Chunk
from rag.store.corpus import Store
from rag.terminal import Progress

DRAFTS = "drafts.csv"
COLUMNS = ("keep", "id", "question", "answer", "kind", "source", "file", "page", "passage")
YES, NO = frozenset({"yes", "y", "1", "x", "是"}), frozenset({"no", "n", "0", "否"})

_FORMULA = tuple("=+-@\t\r")
_LEAST_CHARS = 30


@dataclass(frozen=True, slots=True)
class Drafted:
    """What was drafted.

    Attributes:
        passages: Passages of the store.
        questions: Drafts by kind.
        unusable: Replies of the generator that were no question with an answer of its passage.
    """

    passages: int
    questions: dict[str, int]
    unusable: int


def draft_set(
    store: Store,
    folder: Path,
    *,
    questions: int,
    seed: int = 0,
    say: Callable[[str], str] | None = None,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> Drafted:
    """Write the corpus and the drafts of a store.

    The passages asked about are drawn at random, in turns from all files.

    Args:
        store: Whose passages.
        folder: Where the set goes; made if missing.
        questions: As many as the store has passages for, at most; >= 1.
        seed: Of the draw.
        say: Returns a chat model's reply to a prompt; None: questions are made by rules.
        progress: Called before each passage asked about.

    Raises:
        UsageError: If the store holds no passages.
        PathError: If the folder holds drafts already, or cannot be written.
        ModelError: If the chat model fails.
    """
    if (folder / DRAFTS).exists():
        raise PathError(
            f"{folder / DRAFTS} is there already, perhaps with your corrections.",
            do="Give another --out, or remove it.",
        )
    passages = _passages(store)
    if not passages:
        raise UsageError(f"Store {store.name!r} holds no passages.", do="Ingest documents first.")
    ids = {chunk.id: f"p{number:06d}" for number, chunk in enumerate(passages, 1)}
    sections = defaultdict(list)
    for chunk in passages:
        sections[chunk.file, chunk.context].append(ids[chunk.id])
    rows: list[dict[str, object]] = []
    kinds: dict[str, int] = defaultdict(int)
    unusable, asked = 0, set[str]()
    for chunk in _in_turns(passages, seed):
        if len(rows) == questions:
            break
        progress(Progress(len(rows), questions, "drafting"))
        draft = _by_rule(chunk, len(rows)) if say is None else generated(chunk.text, say)
        if draft is None or draft.question in asked:
            unusable += say is not None and draft is None
            continue
        asked.add(draft.question)
        kinds[draft.kind] += 1
        source = sections[chunk.file, chunk.context] if draft.kind == "heading" else [ids[chunk.id]]
        rows.append(
            {
                "keep": "", "id": f"q{len(rows) + 1:04d}", "question": draft.question,
                "answer": draft.answer, "kind": draft.kind, "source": " ".join(source),
                "file": chunk.file, "page": chunk.page or "", "passage": chunk.text,
            }
        )  # fmt: skip
    corpus = (
        {"_id": ids[chunk.id], "title": chunk.context, "text": chunk.text, "file": chunk.file,
         "start": chunk.start, "end": chunk.end}
        for chunk in passages
    )  # fmt: skip
    _write(folder / "corpus.jsonl", _jsonl(corpus))
    _write(folder / DRAFTS, _table(rows))
    return Drafted(len(passages), dict(kinds), unusable)


def accept(folder: Path, *, unreviewed: bool = False) -> int:
    """Make queries, judgements and answers of the drafts kept; return how many questions.

    Args:
        folder: As `draft_set` wrote it, its table edited.
        unreviewed: Keep those, too, that nobody has said yes or no to.

    Raises:
        EvalDataError: If the table is not as it should be, or nothing is kept.
        PathError: If a file cannot be read or written.
    """
    rows = list(_kept(folder / DRAFTS, unreviewed=unreviewed))
    if not rows:
        raise EvalDataError(
            f"No row of {folder / DRAFTS} is kept.",
            do='Write "yes" into the column keep of the good ones, or give --unreviewed.',
        )
    known = _corpus_ids(folder / "corpus.jsonl")
    qrels = ["query-id\tcorpus-id\tscore\n"]
    for at, row in rows:
        sources = row["source"].split()
        unknown = [source for source in sources if source not in known]
        if unknown or not sources:
            raise EvalDataError(
                f"{at}: got source {row['source']!r:.80}.",
                do="Expected ids of corpus.jsonl, separated by blanks.",
            )
        qrels += [f"{row['id']}\t{source}\t1\n" for source in dict.fromkeys(sources)]
    queries = [
        {"_id": row["id"], "text": row["question"], "kind": row["kind"],
         "reviewed": row["keep"] != ""}
        for _, row in rows
    ]  # fmt: skip
    answers = [{"_id": row["id"], "answers": [row["answer"]]} for _, row in rows if row["answer"]]
    _write(folder / "queries.jsonl", _jsonl(queries))
    _write(folder / "qrels/test.tsv", "".join(qrels))
    _write(folder / "answers.jsonl", _jsonl(answers))
    return len(rows)


def _passages(store: Store) -> list[Chunk]:
    """Return the store's passages in the order of file and place."""
    chunks = store.chunks(store.delta(0).added).values()
    return sorted(chunks, key=lambda chunk: (chunk.file, chunk.start, chunk.id))


def _in_turns(passages: Sequence[Chunk], seed: int) -> Iterator[Chunk]:
    """Yield the passages worth a question at random, one of each file in turn."""
    picked = random.Random(seed)
    files: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in passages:
        if len(chunk.text) >= _LEAST_CHARS:
            files[chunk.file].append(chunk)
    for chunks in files.values():
        picked.shuffle(chunks)
    names = sorted(files)
    picked.shuffle(names)
    while files:
        for name in names:
            if name in files:
                yield files[name].pop()
                if not files[name]:
                    del files[name]


def _by_rule(chunk: Chunk, number: int) -> Draft | None:
    """Draft a gap, every third time a heading, or the other one where there is none."""
    if number % 3 == 2:
        return heading(chunk.context) or cloze(chunk.text)
    return cloze(chunk.text) or heading(chunk.context)


def _kept(path: Path, *, unreviewed: bool) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PathError(
            f"Cannot read {path}: {error.strerror}.", do="`youju eval make` writes it."
        ) from None
    except UnicodeDecodeError:
        raise EvalDataError(
            f"{path} is not UTF-8.", do='Save it as "CSV UTF-8" in the spreadsheet.'
        ) from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    seen: set[str] = set()
    try:
        missing = [name for name in COLUMNS[:6] if name not in (reader.fieldnames or ())]
        if missing:
            raise EvalDataError(
                f"{path} lacks the column {missing[0]}.",
                do=f"Expected the columns {', '.join(COLUMNS[:6])}, separated by commas.",
            )
        for found in reader:
            at = f"{path}, line {reader.line_num}"
            row = {name: _plain(found[name] or "") for name in COLUMNS[:6]}
            keep = row["keep"].lower()
            if keep not in YES | NO | {""}:
                raise EvalDataError(
                    f"{at}: got keep {row['keep']!r:.40}.", do="Expected yes, no or nothing."
                )
            if keep in NO or (not keep and not unreviewed):
                continue
            if not row["question"] or row["id"].split() != [row["id"]] or row["id"] in seen:
                raise EvalDataError(
                    f"{at}: got id {row['id']!r:.40}, question {row['question']!r:.40}.",
                    do="Expected a question, and an id without blanks that occurs once.",
                )
            seen.add(row["id"])
            yield at, row
    except csv.Error as error:
        raise EvalDataError(
            f"{path}, line {reader.line_num}: {error}.", do="Expected a CSV file."
        ) from None


def _corpus_ids(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            return {json.loads(line)["_id"] for line in lines}
    except OSError as error:
        raise PathError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise EvalDataError(f"{path} is damaged.", do="Make the set again.") from None


def _table(rows: Sequence[dict[str, object]]) -> str:
    """Return the rows as CSV with a byte order mark, by which spreadsheets tell UTF-8."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _harmless(str(value)) for name, value in row.items()})
    return "\ufeff" + out.getvalue()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def _plain(cell: str) -> str:
    return (cell[1:] if cell.startswith("'") else cell).strip()


def _jsonl(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PathError(
            f"Cannot make {path.parent}: {error.strerror}.", do="Give another --out."
        ) from None
    write_whole(path, [text])
