"""A process that serves messages keeps memory for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.may_skip("it is about glibc")
def test_a_message_takes_the_memory_of_the_one_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_MESSAGES], capture_output=True, text=True, check=True)
    # With fresh pages each time it would be tens of thousands.
    assert int(done.stdout) < 3_000
