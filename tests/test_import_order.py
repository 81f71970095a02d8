"""Every subpackage imports only from those listed before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ORDER = ["errors", "events", "memory", "device", "models", "formats", "checkpoint", "sources",
         "kernels", "report", "calib", "lite", "convert", "engine", "demo", "cli"]  # fmt: skip
APART = [{"lite", "convert"}, {"lite", "engine"}, {"convert", "engine"}, {"calib", "convert"}]
ROOT = Path(__file__).parents[1] / "mindpress"


def parts() -> dict[Path, str]:
    """Every module and the part it belongs to."""
    files = {file: file.relative_to(ROOT).with_suffix("").parts[0] for file in ROOT.rglob("*.py")}
    return {file: part for file, part in files.items() if not part.startswith("__")}


def imports_of(file: Path) -> Iterator[str]:
    """The parts of mindpress that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (name.split(".")[1] for name in names if name.startswith("mindpress."))


def test_every_part_is_in_the_order():
    assert set(parts().values()) <= set(ORDER)


def test_imports_point_one_way():
    for file, here in parts().items():
        for there in imports_of(file):
            assert ORDER.index(there) <= ORDER.index(here), f"{file}: {here} imports {there}"
            assert {here, there} not in APART, f"{file}: {here} imports {there}"
