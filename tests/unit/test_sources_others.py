"""Last.fm and MIND: small files whose tables are known by hand."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Source, Synthetic
from pipeline.data.sources import hetrec_lastfm, mind

SOURCE = Source(
    format="any",
    origin=Synthetic(kind="synthetic", users=1, items=1, seed=0),
    columns=None,
    time_unit=None,
    max_rejected_share=0.1,
)


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\r\n" for x in lines))
    return path


def test_lastfm_keeps_a_pairs_first_row_in_file_order(tmp_path: Path) -> None:
    files = {
        "tags": write(
            tmp_path / "tags.dat",
            "userID\tartistID\ttagID\ttimestamp",
            "2\t52\t13\t1238536800999",
            "2\t52\t15\t1138536800000",
            "2\t63\t13\t1238536800000",
            "3\t52\t13\t-428720400000",
            "3\t9\tx",
            "3\t9\t1\tnever",
            "3\t\t1\t1",
        ),
        "artists": write(
            tmp_path / "artists.dat",
            "id\tname\turl\tpictureURL",
            "52\tBj\N{LATIN SMALL LETTER O WITH DIAERESIS}rk\thttp://x\thttp://y",
            b"63\tMot\xf6rhead\thttp://x\thttp://y",
            "9\t\thttp://x",
        ),
    }
    tables = hetrec_lastfm.read(files, SOURCE)
    assert tables.interactions.select("user", "item", "time").rows() == [
        ("2", "52", 1238536800),
        ("2", "63", 1238536800),
        ("3", "52", -428720400),
    ]
    assert tables.items.select("item", "title").rows() == [
        ("52", "Bj\N{LATIN SMALL LETTER O WITH DIAERESIS}rk"),
        ("9", None),
    ]
    assert tables.rejected.select("file", "line", "reason").rows() == [
        ("tags.dat", 6, "3 columns, expected 4"),
        ("tags.dat", 7, "time is not a whole number"),
        ("tags.dat", 8, "no artistID"),
        ("artists.dat", 3, "not UTF-8"),
    ]
    assert tables.rows == 10


def test_mind_takes_the_longest_click_history(tmp_path: Path) -> None:
    time = "11/15/2019 8:55:22 AM"
    files = {
        "behaviors": write(
            tmp_path / "behaviors.tsv",
            f"1\tU1\t{time}\tN2\tN9-1",
            f"2\tU1\t{time}\tN2 N1 N2\tN9-0 N8-1",
            f"3\tU1\t{time}\tN5 N6 N7\tN9-0",
            f"4\tU2\t{time}\t\tN1-1",
            f"5\tU3\t{time}\tN1\tN1-1",
            f"6\t\t{time}\tN1\tN1-1",
            "7\tU4",
        ),
        "news": write(
            tmp_path / "news.tsv",
            'N1\tsports\tgolf\tA "quoted title\tAn abstract\thttp://x\t[]\t[]',
            "N2\tnews\t\t\t",
            "N3\tnews",
        ),
    }
    tables = mind.read(files, SOURCE)
    assert tables.interactions.select("user", "item", "time", "position").rows() == [
        ("U1", "N2", None, 0),
        ("U1", "N1", None, 1),
        ("U1", "N2", None, 2),
        ("U3", "N1", None, 0),
    ]
    assert tables.items.rows() == [
        ("N1", 'A "quoted title', None, "sports > golf", "An abstract"),
        ("N2", None, None, "news", None),
    ]
    assert tables.rejected.select("file", "line", "reason").rows() == [
        ("behaviors.tsv", 6, "no user"),
        ("behaviors.tsv", 7, "2 columns, expected 5"),
        ("news.tsv", 3, "2 columns, expected at least 5"),
    ]
    assert tables.rows == 10
