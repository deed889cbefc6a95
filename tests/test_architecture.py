"""House rules that a linter cannot be told: sizes, and loaders that would run somebody else's code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "schemas",
    "features",
    "datasets",
    "models",
    "index",
    "streams",
    "serving",
    "evaluation",
    "entrypoints",
    "skewless_client",
    "benchmarks",
)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 60


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_keep_their_budget(path: Path) -> None:
    text = path.read_text("utf-8")
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
        # A metric catalogue is a list of declarations with their comments, not a function to follow.
        and not (path.name == "telemetry.py" and node.name == "__init__")
    ]

    assert len(text.splitlines()) <= MAX_FILE_LINES
    assert long == []


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    allowed = {
        keyword.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if isinstance(keyword.value, ast.Constant) and keyword.value.value is True
    }

    assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert not calls & {"torch.load", "torch.jit.load", "yaml.load", "eval", "exec"}
    assert "allow_pickle" not in allowed


@pytest.mark.parametrize("path", [p for p in SOURCES if _name(p) != "entrypoints/settings.py"], ids=_name)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    reads = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    }
    # A parent that hands its environment on to its children; and benchmarks, which nothing imports.
    allowed = (
        _name(path) in ("entrypoints/demo_children.py", "entrypoints/demo.py")
        or path.parts[-2] == "benchmarks"
    )

    assert allowed or reads == set()


ENTRYPOINTS = [path for path in SOURCES if path.parent.name == "entrypoints"]
COMMANDS = [path for path in ENTRYPOINTS if path.stem.startswith(("cli", "demo", "wiring"))]


@pytest.mark.parametrize("path", sorted(set(ENTRYPOINTS) - set(COMMANDS)), ids=_name)
def test_only_commands_import_the_composition_root(path: Path) -> None:
    imported = {
        name.split(".")[-1]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        for name in (node.module or "", *(alias.name for alias in node.names))
    }

    assert not {name for name in imported if name.startswith("wiring")}
