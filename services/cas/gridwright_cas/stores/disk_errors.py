"""What the operating system says of the disk of the CAS, in words of our family."""

from __future__ import annotations

from functools import partial

from gridwright import disk_errors as words

#: For a block; see :func:`gridwright.disk_errors.disk_errors`.
disk_errors = partial(words.disk_errors, "the CAS")
