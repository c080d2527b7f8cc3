"""Write the hash-locked requirement sets (`compile`), or check them without a network (`check`).

There is one set per service, holding what that service needs and nothing else, and `dev.txt`, which holds all
of them and the tools. A service's set is resolved with `dev.txt` as its constraint, so a package has the same
version everywhere. None of the sets names an index: where packages come from is the business of the machine.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKED = {
    "cas": "services/cas",
    "actioncache": "services/actioncache",
    "scheduler": "services/scheduler",
    "worker": "services/worker",
    "gateway": "services/gateway",
    "cli": "cli",
}
"""Name of a set, and the directory of the distribution that it serves."""

DISTRIBUTIONS = ["shared", *LOCKED.values()]
COMPILE = ["uv", "pip", "compile", "--universal", "--python-version=3.11", "--generate-hashes", "--quiet"]
COMPILE += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command=make lock"]


@dataclass(frozen=True)
class Pin:
    """One package of a set."""

    name: str
    version: str
    hashes: int


class Project:
    """The distributions of this repository, as their `pyproject.toml` files declare them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tables = {where: tomllib.loads((root / where / "pyproject.toml").read_text()) for where in DISTRIBUTIONS}
        self._where = {canonicalize_name(self._tables[where]["project"]["name"]): where for where in DISTRIBUTIONS}

    def versions(self) -> dict[str, str]:
        """Return the version of every distribution of ours."""
        return {name: self._tables[where]["project"]["version"] for name, where in self._where.items()}

    def requirements(self, where: str) -> dict[str, Requirement]:
        """Return what one distribution needs from elsewhere, through those of ours that it depends on."""
        needed: dict[str, Requirement] = {}
        for text in self._tables[where]["project"]["dependencies"]:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            needed |= self.requirements(self._where[name]) if name in self._where else {name: requirement}
        return needed

    def locked(self) -> dict[str, dict[str, Requirement]]:
        """Return what every set must hold, by the set's name."""
        sets = {name: self.requirements(where) for name, where in LOCKED.items()}
        lines = (self._root / "requirements" / "dev.in").read_text().splitlines()
        tools = [Requirement(line) for line in lines if line and not line.startswith("#")]
        everything = {name: requirement for needed in sets.values() for name, requirement in needed.items()}
        return {"dev": everything | {canonicalize_name(tool.name): tool for tool in tools}, **sets}


def pins(text: str) -> list[Pin]:
    """Return the packages of a set."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)(.*)$", joined, flags=re.MULTILINE)
    return [Pin(canonicalize_name(name), version, rest.count("--hash=sha256:")) for name, version, rest in found]


def compile_all(options: list[str]) -> None:
    """Resolve every set, keeping the versions that are there already unless *options* say `--upgrade`."""
    requirements = ROOT / "requirements"
    for name, needed in Project(ROOT).locked().items():
        constraint = [] if name == "dev" else [f"--constraint={requirements / 'dev.txt'}"]
        upgrade = options if name == "dev" else []
        subprocess.run(
            [*COMPILE, *constraint, *upgrade, f"--output-file={requirements / name}.txt", "-"],
            cwd=ROOT,
            check=True,
            input="".join(f"{requirement}\n" for requirement in needed.values()),
            text=True,
            stdout=subprocess.DEVNULL,
        )


def problems(root: Path = ROOT) -> Iterator[str]:
    """Yield what is wrong with the sets, one line each."""
    project = Project(root)
    if len(set(project.versions().values())) > 1:
        yield f"our distributions have different versions: {project.versions()}"
    texts = {name: (root / "requirements" / f"{name}.txt").read_text() for name in project.locked()}
    dev = {pin.name: pin.version for pin in pins(texts["dev"])}
    for name, needed in project.locked().items():
        file = f"requirements/{name}.txt"
        held = pins(texts[name])
        if address := re.search(r"\S*://\S*|^\s*-.*index.*|^\s*--find-links.*", texts[name], flags=re.MULTILINE):
            yield f"{file}: names an address: {address[0].strip()}"
        for pin in held:
            if not pin.hashes:
                yield f"{file}: {pin.name} has no hash"
            if dev.get(pin.name) != pin.version:
                yield f"{file}: {pin.name} is {pin.version}, but {dev.get(pin.name)} in dev.txt"
        versions = {pin.name: pin.version for pin in held}
        for wanted, requirement in needed.items():
            if wanted not in versions:
                yield f"{file}: {requirement} is missing"
            elif not requirement.specifier.contains(versions[wanted]):
                yield f"{file}: {wanted} is {versions[wanted]}, which is not {requirement}"


def main(argv: list[str]) -> int:
    match argv:
        case ["compile", *options]:
            compile_all(options)
            return 0
        case ["check"]:
            found = list(problems())
            for problem in found:
                print(problem, file=sys.stderr)
            if found:
                print("`make lock` writes the sets again", file=sys.stderr)
            return 1 if found else 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
