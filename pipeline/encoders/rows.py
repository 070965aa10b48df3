"""Row cache: vectors stored once per meaning and text, outside every DVC output.

`<cache>/rows/<key>/` holds what one meaning (model, settings, revision) gives: a few append-only
shards (pipeline/encoders/shard.py), `meaning.json` for people and for tools, and `used`, whose time
is that of the last use. Any number of processes may read and write at once: a writer takes a shard
that no other process has, or begins a new one, so writers never wait for each other, and the lock
of a killed writer vanishes with it. A row whose CRC does not fit counts as absent and is encoded
again; of two rows for one text the later in a shard wins, and the higher shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.encoders.locks import USED, Presence, refusals
from pipeline.encoders.shard import RECORD, Shard, Writer, checksums, numbers
from pipeline.errors import ResourceError
from pipeline.files import TEMPORARY, make_shared, write_atomic

ABSENT = -1
FORMAT = 2
"""Of the files of a meaning. It is part of the key: another format lies in another folder."""
SHARD_BYTES = 4 << 30
"""Rows of a shard; the next one begins where a batch would exceed it."""
FOLDER, MEANING = "rows", "meaning.json"
_SHIFT = 40  # a place is the shard in the upper bits, the row in the lower


def key_of(meaning: Mapping[str, Any]) -> str:
    """Return the name of a meaning: SHA-256 of its sorted JSON."""
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def digest(texts: Sequence[str]) -> np.ndarray:
    """Return [n, 4] uint64, the SHA-256 of each text."""
    hashed = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return np.frombuffer(b"".join(hashed), "<u8").reshape(-1, 4)


class RowCache:
    """Rows of one meaning, each found by the hash of its text.

    A place is where a row lies: opaque, and valid for the life of the object that gave it, also
    when the shard is removed meanwhile. `close` (or `with`) lets other processes go on with the
    shard that was extended; the end of the process does too.
    """

    def __init__(
        self, folder: Path, meaning: Mapping[str, Any], width: int, *, upkeep: bool = False
    ) -> None:
        """upkeep: whoever looks after the cache leaves the time of the last use as it is."""
        self.width = width
        self._content = {"format": FORMAT, "width": width, "meaning": dict(meaning)}
        self.folder = folder / FOLDER / key_of(self._content)
        # A slot is a shard as this object met it: a number may come to name other files.
        self._shards: list[Shard] = []
        self._slots: dict[int, int] = {}
        self._seen: list[int] = []
        self._total = 0
        # Runs of rows in the order in which this object met them; they make the dense numbers.
        self._starts: list[int] = []
        self._firsts: list[int] = []
        self._writer: Writer | None = None
        self._slot = ABSENT
        self._presence: Presence | None = None
        self._marked = upkeep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the shard that was extended and every open file."""
        self._release()
        if self._presence is not None:
            self._presence.close()
        self._presence = None
        for shard in self._shards:
            shard.close()
        for kept in (self._shards, self._slots, self._seen, self._starts, self._firsts):
            kept.clear()
        self._total = 0

    def __len__(self) -> int:
        """Return the number of committed rows, repeated texts included; it never shrinks."""
        for slot, shard in self.shards():
            self._meet(slot, shard.committed())
        return self._total

    def find(self, texts: np.ndarray) -> np.ndarray:
        """Return [n] int64, where the row of each hash lies, or ABSENT.

        texts: [n, 4] uint64, distinct. Linear in the rows of the cache, and vectorised.
        """
        places = np.full(len(texts), ABSENT, np.int64)
        if not len(texts) or not (shards := self.shards()):
            return places
        self._mark()
        # The first 8 bytes select, all 32 decide; distinct hashes that share 8 bytes cost a
        # repeated encode, never a wrong row.
        order = np.argsort(texts[:, 0], kind="stable")
        ordered = texts[order, 0]
        # Their upper bits are marked in a table, which rules out all but a few rows at once.
        bits = min(max(len(texts).bit_length() + 7, 16), 24)
        drop = np.uint64(64 - bits)
        marked = np.zeros(1 << bits, bool)
        marked[ordered >> drop] = True
        for slot, shard in shards:
            count = shard.committed()
            self._meet(slot, count)
            for start, records in shard.records(count):
                prefixes = records["text"][:, 0]
                hits = np.flatnonzero(marked[(prefixes >> drop).view(np.int64)])
                found = prefixes[hits]
                at = np.minimum(np.searchsorted(ordered, found), len(ordered) - 1)
                hits, wanted = hits[ordered[at] == found], order[at[ordered[at] == found]]
                equal = (texts[wanted] == records["text"][hits]).all(axis=1)
                hits, wanted = hits[equal], wanted[equal]
                good = shard.sound(records[hits], start + hits)
                # Ascending places: of equal texts the last assignment, the later row, stays.
                places[wanted[good]] = _pack(slot, start + hits[good])
        return places

    def read(self, places: np.ndarray) -> np.ndarray:
        """Return [n, H] float32, the rows at these places."""
        out = np.empty((len(places), self.width), np.float32)
        for shard, mine, rows in self._parts(places):
            out[mine] = shard.take(rows)
        return out

    def tokens(self, places: np.ndarray) -> np.ndarray:
        """Return [n] uint32, what was given with these rows as the tokens of their texts."""
        out = np.empty(len(places), np.uint32)
        for shard, mine, rows in self._parts(places):
            out[mine] = shard.tokens(rows)
        return out

    def number(self, places: np.ndarray) -> np.ndarray:
        """Return [n] int64 in [0, len(self)), a number for each row; it stays the same."""
        assert (places >= 0).all()
        starts = np.array(self._starts, np.int64)
        order = np.argsort(starts)
        run = order[np.searchsorted(starts[order], places, "right") - 1]
        firsts = np.array(self._firsts, np.int64)
        return np.asarray(places - starts[run] + firsts[run])

    def append(self, texts: np.ndarray, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Add one batch, whole or not at all; return [n] int64, the places of its rows.

        texts: [n, 4] uint64. rows: [n, H] float32. tokens: [n] uint32, of each text; 0 is not
        counted, and the highest bit says that the text was cut.
        Raises ResourceError when the disk is full or offers no locks.
        """
        assert rows.shape == (len(texts), self.width) and rows.dtype == np.float32
        assert tokens.shape == (len(texts),) and tokens.dtype == np.uint32
        records = np.zeros(len(texts), RECORD)
        records["text"], records["tokens"] = texts, tokens
        records["crc"] = checksums(records, rows)
        with refusals(self.folder):
            writer = self._writer_for(len(texts))
            start = writer.append(records, rows)
        self._meet(self._slot, start + len(texts))
        return _pack(self._slot, start + np.arange(len(texts)))

    def describe(self) -> None:
        """Mend what tells of the rows, where there are some and this user may."""
        # Rows are read all the same when the folder is not ours or the disk is full.
        with suppress(OSError, ResourceError), closing(Presence(self.folder, alone=False)):
            self._describe()

    def flush(self) -> None:
        """Make appended rows survive a power cut."""
        if self._writer is not None:
            with refusals(self.folder):
                self._writer.flush()

    def shards(self) -> list[tuple[int, Shard]]:
        """Return the shards that stand in the folder now, ascending, each with its slot here."""
        before = numbers(self.folder)
        while True:
            standing = [self._opened(number) for number in before]
            after = numbers(self.folder)
            # Replaced while they were opened: what replaced them is in a new listing.
            if None not in standing or after == before:
                break
            before = after
        return [(slot, self._shards[slot]) for slot in standing if slot is not None]

    # ------------------------------------------------------------ inside

    def _opened(self, number: int) -> int | None:
        """Return the slot of a shard, opened where it is new; None when its files are not there."""
        slot = self._slots.get(number)
        if slot is None or not self._shards[slot].stands:
            try:
                shard = Shard(self.folder, number, self.width)
            except FileNotFoundError:
                return None
            slot = self._slots[number] = len(self._shards)
            self._shards.append(shard)
            self._seen.append(0)
        return slot

    def _parts(self, places: np.ndarray) -> Iterator[tuple[Shard, Any, np.ndarray]]:
        """Yield each shard that places lie in, which of them do, and their rows there."""
        assert (places >= 0).all()
        slots, rows = unpack(places)
        present = np.unique(slots)
        for slot in present:
            mine = slots == slot if len(present) > 1 else slice(None)
            yield self._shards[slot], mine, rows[mine]

    def _meet(self, slot: int, count: int) -> None:
        """Number the rows of a shard that this object had not seen."""
        new = count - self._seen[slot]
        if new <= 0:
            return
        start = (slot << _SHIFT) + self._seen[slot]
        follows = self._starts and self._starts[-1] + self._total - self._firsts[-1] == start
        if not follows:
            self._starts.append(start)
            self._firsts.append(self._total)
        self._seen[slot] = count
        self._total += new

    def _writer_for(self, count: int) -> Writer:
        """Return the writer of a shard that has room for a batch, the same as long as it has."""
        if self._writer is not None:
            if self._fits(self._writer, count):
                return self._writer
            self._release()
        if self._presence is None:
            self._enter()
        while True:
            known = numbers(self.folder)
            for number in [*known, known[-1] + 1 if known else 0]:
                writer = self._take(number, known)
                if writer is None:
                    continue
                slot = self._opened(number) if self._fits(writer, count) else None
                if slot is not None:
                    self._writer, self._slot = writer, slot
                    return writer
                writer.close()

    def _take(self, number: int, known: Sequence[int]) -> Writer | None:
        try:
            return Writer.take(self.folder, number, self.width)
        except PermissionError:
            if number not in known:
                raise
            return None  # a shard that a colleague keeps to himself; it can still be read

    def _fits(self, writer: Writer, count: int) -> bool:
        stored = writer.size_bytes
        return not stored or stored + count * self.width * 4 <= SHARD_BYTES

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.flush()
            self._writer.close()
        self._writer = None

    def _enter(self) -> None:
        """Make the folder, and keep it from being removed as long as this process writes."""
        while self._presence is None:
            make_shared(self.folder / TEMPORARY)
            with suppress(FileNotFoundError):
                self._presence = Presence(self.folder, alone=False)
        self._mark()
        self._describe()

    def _describe(self) -> None:
        described = self.folder / MEANING
        text = json.dumps(self._content, sort_keys=True, indent=1).encode()
        if not described.exists() or described.read_bytes() != text:
            write_atomic(described, text)

    def _mark(self) -> None:
        """Note the time of use, once per object, where this user may."""
        if not self._marked:
            self._marked = True
            with suppress(OSError):  # rows of a folder that is not ours can be read all the same
                os.utime(self.folder / USED)


def unpack(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slots and the rows of places, each [n] int64; the slot of ABSENT is ABSENT."""
    return places >> _SHIFT, places & ((1 << _SHIFT) - 1)


def _pack(slot: int, rows: np.ndarray) -> np.ndarray:
    return np.asarray((slot << _SHIFT) | rows)
