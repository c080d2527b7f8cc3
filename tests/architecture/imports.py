"""Which module imports what, and which of these imports a table of rules forbids."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """One sentence of the architecture.

    Modules are given as patterns (`gridwright.protos.*_pb2`); a pattern also means all that is inside it.
    """

    says: str
    who: Iterable[str]
    never: Iterable[str]
    but: Iterable[str] = ()
    """What they may import although *never* names it."""
    except_for: Iterable[str] = ()
    """Those of *who* that may."""

    def forbids(self, importer: str, imported: str) -> bool:
        return (
            _among(importer, self.who)
            and not _among(importer, self.except_for)
            and _among(imported, self.never)
            and not _among(imported, self.but)
        )


def violations(roots: Iterable[Path], rules: Iterable[Rule]) -> Iterator[str]:
    """Yield a line for each forbidden import in the packages that lie in *roots*."""
    rules = list(rules)
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            for line, imported in imports(path, root):
                for rule in rules:
                    if rule.forbids(module_name(path, root), imported):
                        yield f"{path}:{line} imports {imported}, but {rule.says}"


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a file; that of a package's `__init__.py` is the package's."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of all that a file imports, at its top or further in.

    `from a import b` counts as `a.b`, which says the same of a module *b* and tells no lie of a class *b*.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package[: len(package) - level + 1] if level else ()
                origin = ".".join([*above, *([module] if module else [])])
                yield from ((node.lineno, f"{origin}.{alias.name}") for alias in names)


def _among(module: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*") for pattern in patterns)
