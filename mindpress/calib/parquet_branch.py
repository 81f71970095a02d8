"""Which file of a Hub dataset to read: the Hub keeps public sets as parquet on a branch."""

from typing import Literal

from mindpress.checkpoint.hub import dataset_names
from mindpress.errors import InputError
from mindpress.events import Listener, Note

Split = Literal["train", "test"]
PARQUET_BRANCH = "refs/convert/parquet"
LOCAL_HINT = "give a .txt, .jsonl or .parquet file of your own instead of the name, or `excerpt`"
# Where to look when a set lacks the split that was asked for.
SPLITS = {"train": ("train", "validation", "test"), "test": ("test", "validation", "train")}
NAMED_IN_ERRORS = 12


def parquet_name(repo: str, config: str | None, split: Split, listener: Listener) -> str:
    """The first parquet file of a split, as CONFIG/SPLIT/0000.parquet.

    Large sets have CONFIG/partial-SPLIT/ instead. Raises InputError when the configuration is
    unknown, or none is given and there are several; NetworkError when the Hub cannot be reached.
    """
    names = [
        name
        for name in dataset_names(repo, PARQUET_BRANCH, LOCAL_HINT)
        if name.endswith(".parquet") and name.count("/") == 2
    ]
    chosen = _configuration(repo, config, sorted({name.split("/")[0] for name in names}))
    for there in SPLITS[split]:
        folders = (f"{chosen}/{there}/", f"{chosen}/partial-{there}/")
        found = sorted(name for name in names if name.startswith(folders))
        if found:
            if there != split:
                listener(Note(f"{repo} has no split `{split}`: `{there}` is read"))
            return found[0]
    raise InputError(f"{repo}: no train, validation or test split in `{chosen}`", hint=LOCAL_HINT)


def _configuration(repo: str, asked: str | None, there: list[str]) -> str:
    if not there:
        raise InputError(f"{repo}: the Hub keeps no parquet files of it", hint=LOCAL_HINT)
    if asked in there:
        return str(asked)
    if asked is None and (len(there) == 1 or "default" in there):
        return "default" if "default" in there else there[0]
    listed = ", ".join(there[:NAMED_IN_ERRORS]) + (" ..." if there[NAMED_IN_ERRORS:] else "")
    problem = f"no configuration `{asked}`" if asked else "has several configurations"
    raise InputError(f"{repo}: {problem}", hint=f"write {repo}:CONFIG with one of {listed}")
