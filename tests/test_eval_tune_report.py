"""The interval of a gain, and the settings file that the program's own loader reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.tune_report import (
    HEADER,
    Gain,
    TuneReport,
    check_out,
    paired_gain,
    settings_file,
    write_out,
)
from eval.tune_space import Values
from rag.config import Settings, load_settings
from rag.errors import PathError

REPORT = TuneReport(
    data="tiny\nsystem = 'dense'",
    metric="nDCG@10",
    tune_queries=10,
    held_out_queries=12,
    trials=5,
    stopped=False,
    start={"system": "hybrid", "candidates": 100, "fusion_bm25_weight": 0.4},
    best={"system": "rrf", "candidates": 100, "fusion_rrf_k": 7},
    tune=(0.5, 0.625),
    held_out=(0.5, 0.5625),
    tune_gain=Gain(0.125, 0.05, 0.2),
    held_out_gain=Gain(0.0625, 0.01, 0.1),
    left_out={},
    embedder="fake:64",
    study=Path("study.db"),
    seconds=1.0,
)


def test_the_interval_by_hand() -> None:
    assert paired_gain([0.5] * 7, 0) == Gain(0.5, 0.5, 0.5)
    # One of two queries gains 1: the mean of two draws is 0, 0.5 or 1, each end one in four.
    assert paired_gain([0.0, 1.0], 0) == Gain(0.5, 0.0, 1.0)


def test_the_interval_is_that_of_the_normal_approximation_for_many_queries() -> None:
    differences = [1.0] * 600 + [-1.0] * 400
    gain = paired_gain(differences, 1)
    half = 1.96 * (1 - 0.2**2) ** 0.5 / 1000**0.5
    assert gain.mean == pytest.approx(0.2)
    assert (gain.low, gain.high) == pytest.approx((0.2 - half, 0.2 + half), abs=0.005)
    assert gain.shown


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(0, 2**32))
def test_the_interval_of_anything(differences: list[float], seed: int) -> None:
    gain = paired_gain(differences, seed, draws=200)
    slack = 1e-9
    assert min(differences) - slack <= gain.low <= gain.high <= max(differences) + slack
    assert gain == paired_gain(differences, seed, draws=200)
    assert gain.shown == (gain.low > 0)
    mirrored = paired_gain([-value for value in differences], seed, draws=200)
    assert (mirrored.low, mirrored.high) == pytest.approx((-gain.high, -gain.low), abs=1e-9)


def test_the_interval_needs_differences() -> None:
    for differences, draws in (([], 10), ([1.0], 0)):
        with pytest.raises(ValueError, match="expected 1 or more"):
            paired_gain(differences, 0, draws)


def loaded(path: Path) -> Settings:
    return load_settings(environ={"YOUJU_CONFIG": str(path)}).settings


def test_the_file_holds_what_differs_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "youju.toml"
    write_out(path, settings_file(REPORT))

    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        'system = "rrf"',
        "fusion_rrf_k = 7",
    ]
    assert "0.5000 before, 0.5625" in text
    assert "interval +0.0100 to +0.1000" in text
    assert (loaded(path).system, loaded(path).fusion_rrf_k) == ("rrf", 7)


@given(
    st.fixed_dictionaries(
        {
            "fusion_bm25_weight": st.floats(0, 100),
            "fusion_least_coverage": st.floats(0, 1),
            "bm25_gram_weight": st.floats(0, 10),
            "candidates": st.integers(1, 10_000),
            "chunk_tokens": st.integers(61, 8192),
        }
    )
)
def test_any_values_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: Values
) -> None:
    path = tmp_path_factory.mktemp("out") / "youju.toml"
    write_out(path, settings_file(replace(REPORT, best=values)))
    found = loaded(path)
    assert {name: getattr(found, name) for name in values} == values


def test_a_gain_that_is_not_shown_is_said_so() -> None:
    assert "is shown" in REPORT.verdict
    unsure = replace(REPORT, held_out_gain=Gain(0.02, -0.001, 0.04))
    assert "not shown" in unsure.verdict
    assert "not shown" in settings_file(unsure)
    assert "\nfusion_rrf_k = 7\n" in settings_file(unsure)
    assert not unsure.to_json()["held_out_gain"]["shown"]
    same = replace(REPORT, best=REPORT.start, tune_gain=Gain(0, 0, 0))
    assert "keep them" in same.verdict
    assert "Nothing differs" in settings_file(same)


def test_what_the_tune_half_does_not_bear_out_is_not_recommended(tmp_path: Path) -> None:
    lucky = replace(REPORT, tune_gain=Gain(0.01, -0.001, 0.02))
    assert not lucky.taken
    assert "keep the settings in force" in lucky.verdict
    write_out(tmp_path / "youju.toml", settings_file(lucky))
    assert loaded(tmp_path / "youju.toml").system == "hybrid"
    assert "# fusion_rrf_k = 7" in settings_file(lucky)


def test_new_chunk_sizes_ask_for_a_reindex() -> None:
    assert "youju reindex" in settings_file(replace(REPORT, best={"chunk_tokens": 120}))
    assert "youju reindex" not in settings_file(REPORT)


def test_no_file_but_its_own_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "youju.toml"
    path.write_text("top_k = 3\n")
    with pytest.raises(PathError, match="exists"):
        check_out(path)
    with pytest.raises(PathError, match="exists"):
        write_out(path, "x")
    assert path.read_text() == "top_k = 3\n"
    with pytest.raises(PathError, match="no such folder"):
        check_out(tmp_path / "none" / "youju.toml")
    with pytest.raises(PathError, match="exists"):
        check_out(tmp_path)

    path.write_text(f"{HEADER}\nold")
    write_out(path, f"{HEADER}\nnew")
    assert path.read_text() == f"{HEADER}\nnew"
    assert list(tmp_path.iterdir()) == [path]
