"""What the operating system says of the disk of the action cache, in words of our family."""

from __future__ import annotations

from functools import partial

from gridwright import disk_errors as words

#: Of one error, and for a block; see :mod:`gridwright.disk_errors`.
disk_error = partial(words.disk_error, "the action cache")
disk_errors = partial(words.disk_errors, "the action cache")
