from __future__ import annotations

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag.index.analyze import MAX_TERM_CHARS, Analyzer, _Chinese, pairs


@pytest.fixture(scope="module")
def analyzer() -> Analyzer:
    return Analyzer()


@pytest.fixture(scope="module")
def chinese() -> _Chinese:
    return _Chinese.load()


HAN = st.text(st.sampled_from("中华人民共和国的一是在电脑数据库年假十五天龘"), max_size=9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Pumps pumping, PUMPED!", ["pump", "pump", "pump"]),
        ("Café NAÏVE Ångström", ["cafe", "naiv", "angstrom"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("state-of-the-art", ["state", "of", "the", "art"]),
        ("E-104", ["e", "104", "e104"]),
        ("v2.3", ["v2", "3", "v2.3"]),
        ("GB/T 19001-2016", ["gb", "t", "19001", "2016", "190012016"]),
        ("1,234.5", ["1", "234", "5", "1234.5"]),
        ("5kg", ["5kg", "5", "kg"]),
        ("snake_case", ["snake", "case"]),
        ("한국어", ["한국", "국어", "어"]),
        ("", []),
        (" \t\n…—!？", []),
        ("\ud800x\x00y\u200bz", ["x", "y", "z"]),
    ],
)
def test_words_of_a_passage(analyzer: Analyzer, text: str, words: list[str]) -> None:
    terms = analyzer.passage(text)
    assert terms.words == words
    assert terms.grams == []


def test_a_code_is_found_however_it_is_written(analyzer: Analyzer) -> None:
    asked = set(analyzer.query("故障 E104 怎么办").words)
    for written in ("E-104", "e104", "Ｅ－１０４", "E/104"):
        assert "e104" in asked & set(analyzer.passage(f"报警{written}：过载").words), written


def test_chinese_words_pairs_and_latin(analyzer: Analyzer) -> None:
    terms = analyzer.passage("计算机 MySQL，公司的员工")
    assert terms.words == ["mysql", "计算机", "计算", "算机", "公司", "的", "员工"]
    assert terms.runs == ["计算机", "公司的员工"]
    assert terms.grams == ["计算", "算机", "机", "公司", "司的", "的员", "员工", "工"]


def test_traditional_and_simplified_are_one(analyzer: Analyzer) -> None:
    traditional = analyzer.passage("機器學習與資料庫的發展，頭髮很乾")
    simplified = analyzer.passage("机器学习与资料库的发展，头发很干")
    assert traditional == simplified


def test_question_words_are_left_out_of_queries_only(analyzer: Analyzer) -> None:
    assert analyzer.query("What does the pump do, and why is the pump hot?").words == [
        "pump",
        "hot",
    ]
    assert "doe" in analyzer.query("John Doe").words
    assert analyzer.query("What is it?").words == ["what", "is", "it"]
    assert "the" in analyzer.passage("the pump").words


def test_english_loads_no_chinese_dictionary() -> None:
    code = (
        "import sys; from rag.index.analyze import Analyzer; a = Analyzer(); "
        "a.passage('The pump, caf\\xe9'); print(a._chinese, 'jieba' in sys.modules, "
        "'opencc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False", "False"]


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "a-" * 500_000, "1," * 500_000, "e\u0301" * 200_000, "啊b" * 100_000],
    ids=["letters", "compounds", "digits", "accents", "mixed"],
)
def test_endless_lines_give_short_terms(analyzer: Analyzer, text: str) -> None:
    terms = analyzer.passage(text)
    assert terms.words
    assert max(map(len, terms.words)) <= MAX_TERM_CHARS
    assert len(terms.words) <= len(text)


@settings(deadline=None)
@given(st.text(st.characters(), max_size=60))
@example("ΐ ŉ İstanbul ﬁ ß ǆ")
@example("\ud800\udfff\ufffe\x00")
@example("々〇　が゙ｶﾞ")
def test_any_text_gives_terms_that_an_index_can_hold(analyzer: Analyzer, text: str) -> None:
    terms = analyzer.passage(text)
    for term in [*terms.words, *terms.grams]:
        assert term.split() == [term]
        assert 0 < len(term) <= MAX_TERM_CHARS
        term.encode()
    asked = analyzer.query(text)
    assert set(asked.words) <= set(terms.words)
    assert set(asked.runs) == set(terms.runs)
    assert len(set(asked.words)) == len(asked.words)
    assert bool(asked.words) == bool(terms.words)


@given(st.lists(st.text("天地人和", min_size=1, max_size=6), max_size=4))
def test_each_character_begins_one_pair(runs: list[str]) -> None:
    grams = pairs(runs)
    assert [gram[0] for gram in grams] == list("".join(runs))
    assert all(len(gram) in (1, 2) for gram in grams)


@settings(deadline=None, max_examples=60)
@given(HAN)
def test_segmentation_is_the_most_probable_cut(chinese: _Chinese, run: str) -> None:
    def score(words: tuple[str, ...]) -> float | None:
        known = chinese.log_frequency
        if any(len(word) > 1 and word not in known for word in words):
            return None
        return sum(known.get(word, chinese.unknown) for word in words)

    cuts = []
    for marks in itertools.product((False, True), repeat=max(len(run) - 1, 0)):
        places = [0, *(i + 1 for i, mark in enumerate(marks) if mark), len(run)]
        words = tuple(run[a:b] for a, b in itertools.pairwise(places) if a < b)
        if all(len(word) <= 3 for word in words):
            cuts.append(words)
    best = max(found for words in cuts if (found := score(words)) is not None)

    cut = chinese.cut(run)
    assert "".join(cut) == run
    assert score(tuple(cut)) == pytest.approx(best)


def test_threads_share_an_analyzer() -> None:
    texts = [f"pumping {n} valves 数据库{n}" for n in range(200)]
    one = Analyzer()
    alone = [one.passage(texts[n]) for n in (0, 199)]
    shared = Analyzer()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shared.passage, texts))
    assert [together[0], together[199]] == alone
