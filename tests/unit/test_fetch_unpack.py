"""Archives that try to leave their folder, fill the disk, or are damaged."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.download.unpack import is_archive, unpack
from pipeline.errors import DataError

LIMIT = 1_000_000


def make_zip(path: Path, entries: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    return path


def make_tar(path: Path, entries: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                packed.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def test_wanted_members_arrive_and_others_do_not(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x/news.tsv": b"n", "x/users.tsv": b"u"})
    found = unpack(archive, ["news.tsv"], tmp_path / "a", LIMIT)
    assert found == {"news.tsv": tmp_path / "a" / "news.tsv"}
    assert found["news.tsv"].read_bytes() == b"n"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["news.tsv"]


def test_tar_members_arrive(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", {"d/one.dat": b"1", "d/two.dat": b"2"})
    found = unpack(archive, ["d/one.dat", "two.dat"], tmp_path / "a", LIMIT)
    assert [p.read_bytes() for p in found.values()] == [b"1", b"2"]


def test_unpacking_again_replaces_an_altered_member(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"n": b"right"})
    unpack(archive, ["n"], tmp_path / "a", LIMIT)["n"].write_bytes(b"wrong")
    assert unpack(archive, ["n"], tmp_path / "a", LIMIT)["n"].read_bytes() == b"right"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_escaping_entry_refuses_the_archive(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"n": b"", name: b"x"})
    with pytest.raises(DataError, match="would leave the folder"):
        unpack(archive, ["n"], tmp_path / "out" / "a", LIMIT)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.zip"]


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device")
    device.type = tarfile.CHRTYPE
    for entry in (link, device):
        archive = make_tar(tmp_path / "a.tar.gz", {"n": b"", entry.name: entry})
        with pytest.raises(DataError, match="a link or a device"):
            unpack(archive, ["n"], tmp_path / "a", LIMIT)
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        unpack(tmp_path / "b.zip", ["link"], tmp_path / "b", LIMIT)


def test_bomb_stops_at_the_limit_and_leaves_nothing(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"n": b"\0" * (LIMIT + 1)})
    assert archive.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"more than 1000000 bytes.*max_unpacked_bytes"):
        unpack(archive, ["n"], tmp_path / "a", LIMIT)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    assert unpack(archive, ["n"], tmp_path / "a", LIMIT + 1)["n"].stat().st_size == LIMIT + 1


def test_limit_counts_all_members_together(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"m": b"1" * 600, "n": b"2" * 600})
    with pytest.raises(DataError, match="more than 1000 bytes"):
        unpack(archive, ["m", "n"], tmp_path / "a", 1000)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_damaged_archive_is_named(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    content = {"n": bytes(range(256)) * 400}
    make_zip(whole, content) if name == "a.zip" else make_tar(whole, content)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged"):
        unpack(whole, ["n"], tmp_path / "a", LIMIT)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_missing_member_lists_what_there_is(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x/news.tsv": b"", "y/news.tsv": b""})
    with pytest.raises(DataError, match=r"users\.tsv is not in the archive.*x/news\.tsv, y/news"):
        unpack(archive, ["users.tsv"], tmp_path / "a", LIMIT)
    with pytest.raises(DataError, match="more than once"):
        unpack(archive, ["news.tsv"], tmp_path / "a", LIMIT)


def test_only_archives_are_unpacked() -> None:
    assert [is_archive(n) for n in ("a.zip", "a.tar.gz", "a.tgz", "a.json.gz")] == [True] * 3 + [
        False
    ]
