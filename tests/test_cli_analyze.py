"""`alert-pipeline analyze changes`: from two CSV files to the part that probably began it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.changes import csv_input
from orchestration.changes.ranking import rank
from orchestration.errors import BadInput
from service.cli import main
from tests.changed_system import BEGIN, STEP, Series, System

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `alert-pipeline analyze changes` in this process, in a folder with the files of an incident."""
    monkeypatch.chdir(tmp_path)
    system = System(3)
    write(tmp_path / "normal.csv.gz", system.series(BEGIN, 150))
    fault = system.fault("p5", 0.5, 10, range(4, 8))
    write(tmp_path / "during.csv.gz", system.series(BEGIN + 200 * STEP, 10, fault))
    calls = "".join(f"{caller},{callee}\n" for caller, callee in system.calls)
    (tmp_path / "calls.csv").write_text(f"caller,callee\n{calls}")

    def run_changes(**options: str) -> str:
        given = {"normal": "normal.csv.gz", "during": "during.csv.gz", "target": "p0", "metric": "latency.mean"}
        words = [f"--{name}={value}" for name, value in (given | options).items()]
        assert main.app(["analyze", "changes", *words, "--json"], standalone_mode=False) == 0
        return capsys.readouterr().out

    return run_changes


def write(path: Path, series: Series) -> None:
    rows = [
        f"{moment},{entity},{metric},{value}" for (entity, metric), points in series.items() for moment, value in points
    ]
    path.write_bytes(gzip.compress("\n".join(["time,entity,metric,value", *rows]).encode()))


def test_the_faulty_part_is_printed_first(run: Run) -> None:
    ranked = json.loads(run(dependencies="calls.csv"))
    assert ranked[0]["entity"] == "p5"
    assert [set(one) for one in ranked] == [{"entity", "score", "why"}] * 12
    assert "latency.mean is 0.5" in ranked[0]["why"]
    assert json.loads(run())[0]["score"] > 0


def test_without_json_it_is_a_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--normal", "normal.csv.gz", "--during", "during.csv.gz", "--target", "p0", "--metric", "latency.mean"]
    main.app(["analyze", "changes", *words, "--dependencies", "calls.csv"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ENTITY", "SCORE", "WHY"]
    assert lines[1].startswith("p5 ")
    assert lines[-1].startswith("… and 2 more")


def test_files_without_trouble_say_so_beside_the_ranking(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert capsys.readouterr().err == ""
    words = ["--target", "p0", "--metric", "latency.mean", "--json"]
    for normal, during in (("normal.csv.gz", "normal.csv.gz"), ("during.csv.gz", "normal.csv.gz")):
        main.app(["analyze", "changes", "--normal", normal, "--during", during, *words], standalone_mode=False)
        shown = capsys.readouterr()
        assert len(json.loads(shown.out)) == 12
        assert "latency.mean of p0 does not leave its normal range" in shown.err
        assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e400"])
def test_infinite_values_are_gaps_and_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    before = gzip.decompress((tmp_path / "during.csv.gz").read_bytes()).decode()
    moment = before.splitlines()[-1].partition(",")[0]
    (tmp_path / "during.csv").write_text(f"{before}\n{float(moment) + STEP},p1,latency.mean,{value}\n")
    words = ["--normal", "normal.csv.gz", "--during", "during.csv", "--target", "p0", "--metric", "latency.mean"]
    main.app(["analyze", "changes", *words, "--json"], standalone_mode=False)
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["score"] > 0
    assert "during.csv has 1 infinite values, which are read as gaps; the first series that has one is" in shown.err


def test_a_huge_value_is_a_value() -> None:
    past = [(n * 60.0, 1.0 + n % 3) for n in range(60)]
    for huge in (1e308, -1e308):
        during = [(4000.0 + n * 60, 2.0 if n < 5 else huge) for n in range(10)]
        [found] = rank({("a", "m"): past}, {("a", "m"): during}, ("a", "m"))
        assert found.score > 100
        assert "m is -1" in found.why or "m is 1" in found.why


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "p00"}, r"has no entity 'p00'; it has p0"),
        ({"metric": "latency"}, r"has no metric 'latency' of p0; it has latency.mean"),
        ({"normal": "missing.csv"}, r"missing.csv cannot be read: No such file"),
        ({"normal": "."}, r"cannot be read"),
        ({"dependencies": "normal.csv.gz"}, r"normal.csv.gz has no column caller, callee"),
        ({"during": "calls.csv"}, r"calls.csv has no column time, entity, metric, value"),
    ],
)
def test_wrong_use_says_what_to_do(run: Run, options: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        run(**options)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"time,entity,metric,value\n", "has no rows"),
        (b"time,entity,metric,value\n1,a,m\n", "line 2: 3 values where there are 4 columns"),
        (b"time,entity,metric,value\n1,a,m,1\nyesterday,a,m,1\n", "line 3: the time 'yesterday' is neither"),
        (
            b"time,entity,metric,value\n1790000000000,a,m,1\n",
            "line 2: the time '1790000000000' is none in Unix seconds",
        ),
        (b"time,entity,metric,value\nnan,a,m,1\n", "is none in Unix seconds"),
        (b"time,entity,metric,value\n1,a,m,much\n", "line 2: the value 'much' is no number"),
        (b'time,entity,metric,value\n1,"a,m,1\n', "is no CSV"),
        (b"time,entity,metric,value\n1,\xff,m,1\n", "is no text in UTF-8: byte 27"),
        (gzip.compress(b"time,entity,metric,value\n1,a,m,1\n" * 99)[:-9], "is a broken gzip file"),
        (b"\x1f\x8bnot at all", "is a broken gzip file"),
        (gzip.compress(bytes(csv_input.MAX_BYTES + 1), compresslevel=1), "is too large"),
        (b"time,entity,metric,value\n1,a,m," + b"1" * 200_000, "is no CSV: field larger"),
        (b"\0\0\0\0", "has no column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_files_are_named_with_what_is_wrong(content: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=f"^f.csv.*{says}"):
        csv_input.read_series(content, "f.csv")


def test_a_file_with_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_input, "MAX_ROWS", 2)
    with pytest.raises(BadInput, match="too long: it may have 2 rows"):
        csv_input.read_series(b"time,entity,metric,value\n" + b"1,a,m,1\n" * 3, "f.csv")


def test_columns_in_any_order_with_others_between_and_gaps() -> None:
    content = (
        "\ufeffValue,host,Metric,entity,TIME\r\n1.5,x,m,a,2026-11-28T01:30:00Z\r\nNaN,x,m,a,60\r\n\r\n,x,m,a,120\r\n"
    )
    read: Any = csv_input.read_series(content.encode(), "f.csv")
    assert list(read) == [("a", "m")]
    assert read["a", "m"][0] == (1795829400.0, 1.5)
    assert [moment for moment, _ in read["a", "m"]] == [1795829400.0, 60.0, 120.0]
