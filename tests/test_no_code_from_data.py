"""Nothing in the package can turn what a file holds into code, or unpack it to where it likes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mindpress"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile",
           "zipfile"}  # fmt: skip
NAMES = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "torch.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system",
    "os.popen", "shutil.unpack_archive", "np.load", "numpy.load", "pd.read_pickle",
}  # fmt: skip
METHODS = {"extractall", "read_pickle"}
# May be true only where a flag says so.
FLAGS = {"trust_remote_code", "allow_pickle", "shell"}


def dangers(code: str) -> Iterator[str]:
    """Every import, call and argument of a module that could run or unpack what data says."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _top(alias.name) in MODULES)
        elif isinstance(node, ast.ImportFrom) and _top(node.module or "") in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _called(node)


def _top(module: str) -> str:
    return module.split(".")[0]


def _called(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in NAMES | ATTRIBUTES or name.split(".")[-1] in METHODS:
        yield name
    for keyword in node.keywords:
        constant = keyword.value.value if isinstance(keyword.value, ast.Constant) else False
        if keyword.arg in FLAGS and constant:
            yield f"{keyword.arg}={constant}"


def test_the_package_has_none():
    found = {
        str(file.relative_to(ROOT)): list(dangers(file.read_text(encoding="utf-8")))
        for file in ROOT.rglob("*.py")
    }
    assert len(found) > 100
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "eval(text)", "exec(text)", "__import__(name)",
        "torch.load(file)", "yaml.load(text, Loader)", "archive.extractall()", "import zipfile",
        "np.load(file, allow_pickle=True)", "AutoModel.from_pretrained(f, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
    ],
)  # fmt: skip
def test_each_kind_would_be_seen(code):
    assert list(dangers(code))


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "re.compile(x)", "load(f, trust_remote_code=trust)", "yaml.safe_load(t)"],
)
def test_what_only_looks_like_it_is_left_alone(code):
    assert not list(dangers(code))
