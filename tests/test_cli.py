"""The command line as a user meets it: results on stdout, one line for an error, exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import Done, Run, assert_one_line

from rag.build import build_rag
from rag.config import Settings

ROOT = Path(__file__).resolve().parents[1]


# -- the main job --------------------------------------------------------------------------------


def test_ask_json_has_the_documented_shape_and_exact_quotes(samples: Path, run: Run) -> None:
    done = run("ask", "How heavy is a JL-220 pump set once it's crated?", "--json")
    answer = done.json
    assert done.status == 0
    assert set(answer) == {
        "answer", "refused", "unsupported", "dropped", "finish", "citations", "store", "timings",
    }  # fmt: skip
    assert answer["store"] == "samples"
    assert answer["refused"] is False
    assert "185 kg" in answer["answer"]
    assert answer["citations"]
    for citation in answer["citations"]:
        assert set(citation) == {"file", "page", "start", "end", "quote", "score", "file_id"}
        assert 0 <= citation["score"] <= 1
        shown = run(
            "show", citation["file"],
            "--start", str(citation["start"]), "--end", str(citation["end"]),
        )  # fmt: skip
        assert shown.out == citation["quote"] + "\n"


def test_ask_prints_answer_and_sources(samples: Path, run: Run) -> None:
    done = run("ask", "C3 控制器显示 E05 是什么故障？")
    assert "压力变送器断线" in done.out
    assert "[1] service/c3-error-codes-zh.md" in done.out


def test_ask_refuses_what_the_corpus_does_not_say(samples: Path, run: Run) -> None:
    answer = run("ask", "昨晚的足球决赛谁赢了？", "--json").json
    assert answer["refused"] is True
    assert answer["citations"] == []


def test_pdf_citations_carry_their_page(samples: Path, run: Run) -> None:
    answer = run("ask", "JL-220N 用的双相钢叶轮多少钱一个？", "--json").json
    pdf = [c for c in answer["citations"] if c["file"].endswith(".pdf")]
    assert pdf
    document = build_rag(Settings(home=samples)).catalog.get("samples").document(pdf[0]["file"])
    on = [p.label for p in document.pages if p.start <= pdf[0]["start"] < p.end]
    assert [str(pdf[0]["page"])] == on


def test_search_lists_passages(samples: Path, run: Run) -> None:
    hits = run("search", "轴承 润滑脂", "--top-k", "3", "--json").json["hits"]
    assert len(hits) == 3  # of many that match
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert run("search", "轴承 润滑脂").out.startswith("1. ")


def test_stores_and_files(samples: Path, run: Run) -> None:
    (store,) = run("stores", "--json").json["stores"]
    assert (store["name"], store["documents"]) == ("samples", 30)
    files = run("files", "--json").json["files"]
    assert len(files) == 30
    assert {file["pages"] for file in files if file["name"].endswith(".pdf")} <= {2, 3}
    assert "products/d40-manual-en.docx" in run("files").out


def test_ingest_change_prune_delete(home: Path, tmp_path: Path, run: Run) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("The seal of pump A lasts 900 hours.\n")
    (corpus / "b.txt").write_text("The seal of pump B lasts 800 hours.\n")
    first = run("ingest", str(corpus), "--json").json
    assert (sorted(first["added"]), first["unchanged"]) == (["a.txt", "b.txt"], [])
    again = run("ingest", str(corpus), "--json").json
    assert (again["added"], again["unchanged"]) == ([], ["a.txt", "b.txt"])

    (corpus / "a.txt").write_text("The seal of pump A lasts 950 hours.\n")
    (corpus / "b.txt").unlink()
    changed = run("ingest", str(corpus), "--prune", "--json").json
    assert (changed["replaced"], changed["pruned"]) == (["a.txt"], ["b.txt"])
    assert "950" in run("ask", "How many hours does the seal of pump A last?").out
    assert run("search", "pump B", "--json").json["hits"][0]["file"] == "a.txt"

    assert run("delete", "a.txt").status == 0
    assert run("search", "seal", "--json").json["hits"] == []
    assert_one_line(run("delete", "--all"), 2, "--yes")
    assert run("delete", "--all", "--yes").status == 0
    assert_one_line(run("files"), 2, "No store named 'default'", "youju ingest")


def test_what_came_from_a_folder_that_is_gone_is_named_and_can_be_deleted(
    home: Path, tmp_path: Path, run: Run
) -> None:
    old, new, kept = tmp_path / "old", tmp_path / "new", tmp_path / "older"
    for folder in (old, kept):
        folder.mkdir()
        (folder / f"{folder.name}.txt").write_text(f"The pump of {folder.name} is red.")
        run("ingest", str(folder))
    old.rename(new)
    report = run("ingest", str(new), "--prune", "--json").json
    assert (report["added"], report["pruned"]) == (["new/old.txt"], [])
    assert report["lost"] == {str(old): 1}
    assert (
        f"Note: {old} is gone; what came from it (1 document)"
        in run("ingest", str(new), "--prune").out
    )
    assert_one_line(run("ingest", str(old), "--prune"), 2, "does not exist", "--under")
    assert_one_line(run("delete", "--under", str(tmp_path / "never")), 2, "No document")
    assert run("delete", "--under", str(old), "--json").json["deleted"] == 1
    assert_one_line(run("delete", "--under", "/"), 2, "--yes")
    files = run("files", "--json").json["files"]
    sources = {file["source"] for file in files}
    assert sources == {str(new / "old.txt"), str(kept / "older.txt")}


def test_a_file_that_can_no_longer_be_read_keeps_its_text_and_says_so(
    home: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text("The tank holds 70 litres.")
    run("ingest", str(tmp_path / "docs"))
    (tmp_path / "docs/a.txt").write_bytes(b"")
    (tmp_path / "docs/b.txt").write_bytes(b"")
    (tmp_path / "docs/c.mp3").write_bytes(b"")
    done = run("ingest", str(tmp_path / "docs"), "--prune")
    assert "a.txt: The file is empty (0 bytes). The store keeps the version it had." in done.err
    assert "b.txt: The file is empty (0 bytes).\n" in done.err
    assert "1 of other formats (.mp3 1) skipped" in done.out
    assert "70 litres" in run("ask", "How many litres does the tank hold?").out


def test_pruning_a_folder_reaches_what_came_from_below_it(
    home: Path, tmp_path: Path, run: Run
) -> None:
    below = tmp_path / "docs/sub"
    below.mkdir(parents=True)
    (tmp_path / "docs/top.txt").write_text("The pump is red.")
    for name in ("a", "b"):
        (below / f"{name}.txt").write_text(f"The valve {name} is blue.")
    run("ingest", str(below))
    (below / "a.txt").unlink()
    assert run("ingest", str(tmp_path / "docs"), "--prune", "--json").json["pruned"] == ["a.txt"]
    (below / "b.txt").unlink()
    below.rmdir()
    done = run("ingest", str(tmp_path / "docs"), "--prune", "--json").json
    assert (done["pruned"], done["lost"]) == (["b.txt"], {})


def test_pruning_spares_what_is_refused_whatever_bytes_its_name_is_made_of(
    home: Path, tmp_path: Path, run: Run
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / os.fsdecode(b"na\xefve.txt")).write_text("The tank holds 70 litres.")
    (folder / "other.txt").write_text("The pump is red.")
    run("ingest", str(folder))
    (folder / os.fsdecode(b"na\xefve.txt")).write_bytes(b"")
    done = run("ingest", str(folder), "--prune", "--json").json
    assert (done["pruned"], done["lost"]) == ([], {})
    assert "keeps the version it had" in done["rejected"][0]["message"]
    (folder / "other.txt").unlink()
    assert run("ingest", str(folder), "--prune", "--json").json["pruned"] == ["other.txt"]
    assert "70 litres" in run("ask", "How many litres does the tank hold?").out
    assert run("delete", "--under", str(folder), "--yes", "--json").json["deleted"] == 1


def test_files_of_the_same_name_from_two_folders_both_stay(
    home: Path, tmp_path: Path, run: Run
) -> None:
    for name, colour in (("a", "blue"), ("b", "green")):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "readme.md").write_text(f"The pump of plant {name} is {colour}.")
    (tmp_path / "a/sub/x.md").write_text("The valve is red.")
    assert run("ingest", str(tmp_path / "a"), "--json").json["added"] == ["readme.md", "sub/x.md"]
    assert run("ingest", str(tmp_path / "b"), "--json").json["added"] == ["b/readme.md"]
    assert run("ingest", str(tmp_path / "a/sub"), "--json").json["unchanged"] == ["sub/x.md"]
    both = run("ingest", str(tmp_path / "a"), str(tmp_path / "b"), "--json").json
    assert both["unchanged"] == ["readme.md", "sub/x.md", "b/readme.md"]
    assert "blue" in run("ask", "Which colour has the pump of plant a?").out
    (tmp_path / "b/readme.md").write_text("The pump of plant b is yellow.")
    assert run("ingest", str(tmp_path / "b"), "--json").json["replaced"] == ["b/readme.md"]
    (tmp_path / "b/readme.md").unlink()
    pruned = run("ingest", str(tmp_path / "b"), "--prune", "--json").json
    assert pruned["pruned"] == ["b/readme.md"]
    assert len(run("files", "--json").json["files"]) == 2


def test_reindex_follows_a_new_chunk_size(
    home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(f"Valve {n} opens at {n} bar and closes at {n + 1} bar." for n in range(60))
    (tmp_path / "valves.txt").write_text(text)
    run("ingest", str(tmp_path / "valves.txt"))
    before = run("files", "--json").json["files"][0]["chunks"]
    monkeypatch.setenv("YOUJU_CHUNK_TOKENS", "60")
    monkeypatch.setenv("YOUJU_CHUNK_OVERLAP", "0")
    (tmp_path / "more.txt").write_text("More valves.")
    assert_one_line(run("ingest", str(tmp_path / "more.txt")), 2, "youju reindex")
    report = run("reindex", "--json").json
    assert report["chunks"] > before
    assert "41 bar" in run("ask", "At how many bar does valve 40 close?").out
    assert run("ingest", str(tmp_path / "more.txt")).status == 0


def test_show_prints_a_stretch_and_refuses_one_that_is_not_there(samples: Path, run: Run) -> None:
    name = "products/d40-manual-en.docx"
    whole = run("show", name).out[:-1]
    assert run("show", name, "--start", "3", "--end", "9").out == whole[3:9] + "\n"
    assert_one_line(run("show", name, "--start", "10", "--end", "5"), 2, "--start 10 --end 5")
    assert_one_line(run("show", name, "--start", "1000000"), 2, f"{len(whole):,} characters")


def test_a_misspelt_setting_names_the_one_meant(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOUJU_TOPK", "5")
    assert_one_line(run("stores"), 2, "YOUJU_TOPK", "YOUJU_TOP_K")
    monkeypatch.delenv("YOUJU_TOPK")
    (tmp_path / "youju.toml").write_text("chunk_token = 5\n")
    assert_one_line(run("stores"), 2, "chunk_token", "Did you mean chunk_tokens?")
    (tmp_path / "youju.toml").unlink()
    (tmp_path / "youju.toml").mkdir()
    assert_one_line(run("stores"), 2, "youju.toml")


def test_config_names_every_origin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUJU_TOP_K", "5")
    rows = {row["name"]: row for row in run("config", "--json").json["settings"]}
    assert rows["top_k"] | {"help": ""} == {
        "name": "top_k", "value": 5, "origin": "YOUJU_TOP_K", "variable": "YOUJU_TOP_K", "help": "",
    }  # fmt: skip
    assert rows["generator"]["origin"] == "default"


def test_doctor_finds_everything_in_order(home: Path, run: Run) -> None:
    done = run("doctor", "--json")
    assert done.status == 0, done
    assert {finding["status"] for finding in done.json["findings"]} <= {"ok", "note"}


def test_doctor_says_what_is_missing(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUJU_GENERATOR", "openai")
    monkeypatch.setenv("YOUJU_GENERATOR_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("YOUJU_GENERATOR_MODEL", "m")
    done = run("doctor", "--json")
    assert done.status == 1
    missing = [f["what"] for f in done.json["findings"] if f["status"] == "missing"]
    assert missing == ["generator"]


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["ingest", "no/such/path"], ["no/such/path does not exist"]),
        (["ingest", ""], ["empty path"]),
        (["ingest", "https://example.com/a.pdf"], ["no path of this machine"]),
        (["ingest", "x" * 5000], ["File name too long"]),
        (["delete", "a", "--all"], ["one of"]),
        (["delete", "--under", ""], ["empty path"]),
        (["ask", "?", "--top-k", "0"], ["top_k"]),
        (["ask", "why", "--top-k", "x"], ["--top-k"]),
        (["ask"], ["question"]),
        (["frobnicate"], ["frobnicate"]),
        (
            ["keys", "create", "x", "--scope", "root"],
            [": 'root' is not one of", "'admin'. See `youju keys create --help`."],
        ),
        (["serve", "--port", "99999"], ["65535. See `youju serve --help`."]),
        (["delete"], ["--all"]),
        (["ask", "why", "--store", "absent"], ["'absent'"]),
        (["ingest", "README.md", "--store", " "], ["Store name"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], parts: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert_one_line(run(*arguments), 2, *parts)


@pytest.mark.parametrize("question", ["", "   ", "\x00\x07\n", "？！", "\udcff"])
def test_an_empty_question_is_refused(samples: Path, run: Run, question: str) -> None:
    assert_one_line(run("ask", question), 2, "The question is empty")
    assert_one_line(run("search", question), 2, "The question is empty")


def test_a_huge_question_is_refused(samples: Path, run: Run) -> None:
    assert_one_line(run("ask", "泵" * 100_000), 2, "100,000 characters", "4,000")


def test_a_question_with_lone_surrogates_is_answered(samples: Path, run: Run) -> None:
    assert run("ask", "Who is supposed to use the yellow \udcff locks?").status == 0


def test_a_store_of_another_embedder_is_refused(
    samples: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOUJU_EMBEDDER_QUERY_PROMPT", "query: ")
    assert_one_line(run("ask", "why"), 2, "all-MiniLM-L6-v2", "'query: '", "youju reindex")


def test_bad_files_are_named_and_the_others_ingested(home: Path, tmp_path: Path, run: Run) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (corpus / "good.txt").write_text("The good file says that the tank holds 70 litres.")
    (corpus / "control.txt").write_text("The \x07bell\x1b[31m rings at 80 litres.")
    (corpus / "long.txt").write_text("x" * 1_000_000)
    (corpus / "zero.txt").write_bytes(b"")
    (corpus / "picture.pdf").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    (corpus / "cut.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog")
    (corpus / "noise.txt").write_bytes(bytes(range(256)) * 64)
    (corpus / "link.txt").symlink_to(tmp_path / "outside.txt")
    done = run("ingest", str(corpus), "--json")
    assert done.status == 1
    report = done.json
    assert sorted(report["added"]) == ["control.txt", "good.txt", "long.txt"]
    reasons = {item["file"]: item["reason"] for item in report["rejected"]}
    assert reasons == {
        "cut.pdf": "damaged",
        "link.txt": "outside",
        "noise.txt": "not-text",
        "picture.pdf": "unsupported",
        "zero.txt": "empty",
    }
    assert "70 litres" in run("ask", "How many litres does the tank hold?").out
    human = run("ingest", str(corpus))
    assert human.err.count("\n") == 6
    assert "5 files not ingested; the others are in the store." in human.err


def test_a_file_over_the_limit_is_refused(
    home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOUJU_MAX_FILE_MIB", "0.001")
    (tmp_path / "big.txt").write_text("word " * 1000)
    report = run("ingest", str(tmp_path / "big.txt"), "--json").json
    assert [item["reason"] for item in report["rejected"]] == ["too-large"]


def test_an_empty_folder_is_refused(home: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(run("ingest", str(tmp_path / "empty")), 2, "empty")
    assert run("stores", "--json").json == {"stores": []}


def test_a_home_that_cannot_be_made_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("YOUJU_HOME", str(tmp_path / "file" / "home"))
    assert_one_line(run("stores"), 1, "YOUJU_HOME")


def test_a_locked_database_is_one_line(
    home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("The pump is blue.")
    run("ingest", str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_text("The pump is green.")
    monkeypatch.setenv("YOUJU_DATABASE_TIMEOUT", "0.2")
    other = build_rag(Settings(home=home))
    with other.db.write():
        done = run("ingest", str(tmp_path / "a.txt"))
        assert_one_line(done, 1, "is locked by another process")
        assert run("ask", "Which colour has the pump?").status == 0
    assert run("ingest", str(tmp_path / "a.txt")).status == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists() or os.name != "posix", reason="needs POSIX")
def test_a_disk_that_fills_up_is_one_line_and_nothing_is_lost(
    home: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "a.txt").write_text("The pump is blue.")
    assert run("ingest", str(tmp_path / "a.txt")).status == 0
    (tmp_path / "b.txt").write_text("The valve is red. " * 4_000)
    limit = 60_000  # bytes of any one file: the write-ahead log does not get far
    code = (
        "import resource, signal, sys, youju\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.argv = ['youju', *sys.argv[1:]]\n"
        "youju.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "ingest", str(tmp_path / "b.txt")],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "YOUJU_HOME": str(home)},
    )  # fmt: skip
    assert_one_line(Done(done.returncode, done.stdout, done.stderr), 1)
    assert "blue" in run("ask", "Which colour has the pump?").out
    assert run("ingest", str(tmp_path / "b.txt")).status == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux mounts")
def test_a_read_only_home_is_one_line(samples_home: Path, tmp_path: Path) -> None:
    """On a read-only mount, in a mount name space of its own; skipped where that is not allowed."""
    script = (
        'mount --bind "$0" "$1" && mount -o remount,ro,bind "$1" || exit 77\n'
        'exec "$2" -m youju "$3" "$4" --store samples\n'
    )
    for arguments in (["ingest", "README.md"], ["ask", "Who uses the yellow locks?"]):
        target = tmp_path / arguments[0]
        target.mkdir()
        command = ["unshare", "--mount", "sh", "-c", script]
        command += [str(samples_home), str(target), sys.executable]
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True, text=True, cwd=ROOT,
            env={**os.environ, "YOUJU_HOME": str(target)},
        )  # fmt: skip
        if done.returncode == 77 or "unshare" in done.stderr:
            pytest.skip("mounting is not allowed here")
        assert_one_line(Done(done.returncode, done.stdout, done.stderr), 1, "YOUJU_HOME")


# -- the process ---------------------------------------------------------------------------------


def process(*arguments: str, **environment: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "youju", *arguments],
        capture_output=True, text=True, encoding="utf-8", cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, youju; youju.run(['--help'], debug=False);"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'openvino', 'faiss', 'langchain_core'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_ask_in_a_process_of_its_own_imports_no_torch(samples: Path) -> None:
    code = (
        "import sys, youju; status = youju.run(['ask', 'Who uses yellow locks?'], debug=False);"
        "names = {'torch', 'transformers', 'sentence_transformers', 'kreuzberg'};"
        "sys.exit(str(names & set(sys.modules)) if names & set(sys.modules) else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "Contractors" in done.stdout


def test_ctrl_c_says_that_it_can_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ingest.folder_job.ingest_durably", interrupted)
    assert_one_line(run("ingest", str(ROOT)), 130, "Stopped", "Run it again")


def test_version_and_short_help(run: Run) -> None:
    assert run("--version").out.startswith("youju ")
    assert run("ask", "-h").out == run("ask", "--help").out


def test_debug_shows_the_traceback_and_only_debug_does() -> None:
    plain = process("files", "--store", "absent")
    assert (plain.status, plain.err.count("\n")) == (2, 1)
    debugged = process("files", "--store", "absent", "--debug")
    assert "Traceback" in debugged.err
    assert "UnknownStore" in debugged.err
    assert debugged.status == plain.status


def test_no_progress_bar_without_a_terminal(home: Path) -> None:
    done = process("ingest", "samples/corpus/it", YOUJU_HOME=str(home))
    assert done.status == 0
    assert done.err == ""
