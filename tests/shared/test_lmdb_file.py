"""Whether a data file of LMDB's is as long as what it holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from gridwright.lmdb_file import is_cut_short

READ_ALL = """
import sys, lmdb
with lmdb.open(sys.argv[1], map_size=2**40, max_dbs=2, readonly=True) as environment:
    table = environment.open_db(b"table")
    with environment.begin() as transaction:
        sum(len(bytes(value)) for _, value in transaction.cursor(db=table))
"""


def fill(directory: Path, seed: int, transactions: int) -> int:
    """Put and delete at random; return how often the file was shorter than its last page number says."""
    chance = random.Random(seed)
    short = 0
    with lmdb.open(str(directory), map_size=2**40, max_dbs=2, metasync=False, sync=False) as environment:
        table = environment.open_db(b"table")
        keys: list[bytes] = []
        for _ in range(transactions):
            with environment.begin(write=True, db=table) as transaction:
                for _ in range(chance.randint(1, 200)):
                    keys.append(chance.randbytes(32))
                    transaction.put(keys[-1], chance.randbytes(chance.choice([50, 900, 6000, 20_000])))
                chance.shuffle(keys)
                for _ in range(min(len(keys), chance.randint(0, 250))):
                    transaction.delete(keys.pop())
            last_page = environment.info()["last_pgno"]
            if os.stat(directory / "data.mdb").st_size < (last_page + 1) * environment.stat()["psize"]:
                short += 1
            assert not is_cut_short(directory / "data.mdb")
    return short


def cut(path: Path, size_bytes: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size_bytes)


def test_a_sound_file_is_never_taken_for_one_that_is_cut_short(tmp_path: Path) -> None:
    # At least some are shorter than their last page number says, or the test would be of no use.
    assert sum(fill(tmp_path / str(seed), seed, 40) for seed in range(8)) > 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_what_would_end_the_process_is_recognised(tmp_path: Path, seed: int, part: float) -> None:
    fill(tmp_path, seed, 5 + seed)
    data = tmp_path / "data.mdb"
    cut(data, int(data.stat().st_size * part))
    cut_short = is_cut_short(data)
    read_all = subprocess.run([sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, timeout=60)
    assert read_all.returncode in (0, -signal.SIGBUS)
    if read_all.returncode:
        assert cut_short


def test_one_page_that_is_missing_is_enough(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=2**40, max_dbs=2) as environment:
        table = environment.open_db(b"table")
        for number in range(100):
            with environment.begin(write=True, db=table) as transaction:
                transaction.put(b"%d" % number, bytes(10_000))
    data = tmp_path / "data.mdb"
    assert not is_cut_short(data)
    cut(data, data.stat().st_size - 4096)
    assert is_cut_short(data)
    read_all = subprocess.run([sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, timeout=60)
    assert read_all.returncode in (0, -signal.SIGBUS)
    cut(data, data.stat().st_size // 2)
    read_all = subprocess.run([sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, timeout=60)
    assert read_all.returncode == -signal.SIGBUS


def test_where_lmdb_begins_or_complains_itself_nothing_is_cut_short(tmp_path: Path) -> None:
    data = tmp_path / "data.mdb"
    assert not is_cut_short(data)
    for content in (b"", b"something else", bytes(10_000)):
        data.write_bytes(content)
        assert not is_cut_short(data)


def test_what_is_half_noise_is_judged_within_bounds(tmp_path: Path) -> None:
    fill(tmp_path, 2, 5)
    data = tmp_path / "data.mdb"
    content = data.read_bytes()[: data.stat().st_size // 2]
    chance = random.Random(3)
    for _ in range(200):
        noisy = bytearray(content)
        for _ in range(20):
            start = chance.randrange(8192, len(noisy) - 100)
            noisy[start : start + 100] = chance.randbytes(100)
        data.write_bytes(noisy)
        assert is_cut_short(data)
