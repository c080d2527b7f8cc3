"""What is built: small workspaces that nobody has built before."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import uuid4

GENRULES = 200


def write_cpp_workspace(directory: Path) -> Path:
    """Write a C++ library, a binary, a test and genrules; return the directory."""
    mark = uuid4()
    directory.mkdir()
    files = {
        "WORKSPACE": 'workspace(name = "journey")\n',
        "BUILD": """
cc_library(name = "words", srcs = ["words.cc"], hdrs = ["words.h"])
cc_binary(name = "speak", srcs = ["speak.cc"], deps = [":words"])
cc_test(name = "words_test", size = "small", srcs = ["words_test.cc"], deps = [":words"])
genrule(name = "sum", srcs = ["words.cc"], outs = ["sum.txt"], cmd = "cksum < $(SRCS) > $@")
genrule(name = "nested", srcs = [":sum"], outs = ["a/b/nested.txt"], cmd = "cat $(SRCS) $(SRCS) > $@")
genrule(name = "spoken", outs = ["spoken.txt"], tools = [":speak"], cmd = "$(location :speak) > $@")
""",
        "words.h": f"#pragma once  // {mark}\n#include <string>\nstd::string words();\n",
        "words.cc": f'#include "words.h"\nstd::string words() {{ return "{mark}"; }}\n',
        "speak.cc": '#include <iostream>\n#include "words.h"\nint main() { std::cout << words() << std::endl; }\n',
        "words_test.cc": '#include "words.h"\nint main() { return words().empty(); }\n',
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory.with_name(f"{directory.name}.expected")).write_text(f"{mark}\n")
    return directory


def expected_words(directory: Path) -> str:
    """Return what the binary of a C++ workspace says."""
    return directory.with_name(f"{directory.name}.expected").read_text()


def write_genrule_workspace(directory: Path) -> dict[str, str]:
    """Write 200 genrules; return the text of each output by its file's name."""
    mark = uuid4()
    directory.mkdir()
    (directory / "WORKSPACE").write_text('workspace(name = "many")\n')
    outputs = {}
    rules = []
    for number in range(GENRULES):
        source = f"{mark} {number}\n"
        (directory / f"in{number}.txt").write_text(source)
        outputs[f"out{number}.txt"] = f"{source}{hashlib.sha256(source.encode()).hexdigest()}  -\n"
        rules.append(
            f'genrule(name = "g{number}", srcs = ["in{number}.txt"], outs = ["out{number}.txt"],'
            ' cmd = "cat $(SRCS) > $@; sha256sum < $(SRCS) >> $@; sleep 0.02")'
        )
    (directory / "BUILD").write_text("\n".join(rules) + "\n")
    return outputs
