"""A process that serves messages keeps memory for the next one."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys

import pytest

from gridwright.wire import process_memory

# What is set is the whole process's, and the tests share one.
LARGE_MESSAGES = """
import resource
from gridwright.wire.process_memory import suit_messages

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

suit_messages()
suit_messages()
message = bytearray(2**20)
copies = [bytes(message) for _ in range(3)]
before = faults()
for _ in range(100):
    copies.clear()
    copies = [bytes(message) for _ in range(3)]
print(faults() - before)
"""

HEAPS = """
import ctypes, sys, tempfile, threading
from gridwright.wire.process_memory import share_one_heap

if sys.argv[1] == "one":
    share_one_heap()
all_are_here = threading.Barrier(4)

def work():
    piece = bytes(100_000)
    all_are_here.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as told:
    file = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(told.read().count(b"<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.may_skip("it is about glibc")
def test_the_threads_of_a_service_share_one_heap() -> None:
    def heaps(wanted: str) -> int:
        done = subprocess.run([sys.executable, "-c", HEAPS, wanted], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert heaps("one") == 1
    assert heaps("as many as there are") > 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.may_skip("it is about glibc")
def test_a_message_takes_the_memory_of_the_one_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_MESSAGES], capture_output=True, text=True, check=True)
    # With fresh pages each time it would be tens of thousands.
    assert int(done.stdout) < 3_000


async def test_memory_goes_back_while_large_blobs_are_under_way_and_once_after(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(process_memory, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(process_memory, "give_back", lambda: loop.call_soon_threadsafe(given_back.set))
    streams = process_memory.LargeStreams()
    async with asyncio.timeout(10):
        with streams.one():
            for _ in range(2):
                await given_back.wait()
                given_back.clear()
        await given_back.wait()


def test_memory_that_nobody_uses_can_be_given_back() -> None:
    process_memory.give_back()
    assert process_memory.resident_bytes() > 0
