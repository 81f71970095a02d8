"""Text to calibrate and to evaluate with: named sets, files of your own, or a Hub id.

Sets of the Hub are read from the plain files of their repository (parquet, gzipped lines), never
through a script. A set without such files is read from the branch `refs/convert/parquet`, where
the Hub itself keeps every public set as parquet; the script of `ptb` no longer runs anywhere.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Int64
from torch import Tensor

from mindpress.calib.parquet_branch import LOCAL_HINT, PARQUET_BRANCH, Split, parquet_name
from mindpress.calib.text_files import ENDINGS, check_text_file, documents
from mindpress.calib.windows import Wanted, long_documents, random_windows, short_documents
from mindpress.checkpoint.hub import dataset_file
from mindpress.errors import ConfigError, InputError
from mindpress.events import Listener, Note, ignore

# An evaluation reads at most this much; more would run for days.
MOST_CHARACTERS = 64 * 2**20
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where a set's two files are, and how windows are drawn from it.

    `repo` None: local files. Without file names they are found on the branch of parquet files.
    `joiner` and `test_joiner` stand between documents; `test_documents` are evaluated (None: all).
    """

    name: str
    repo: str | None = None
    revision: str = "main"
    config: str | None = None
    train: str = ""
    test: str = ""
    sampling: Literal["windows", "long", "short"] = "windows"
    joiner: str = "\n\n"
    test_joiner: str = "\n\n"
    test_documents: int | None = None


EXCERPT = Path(__file__).parent.parent / "demo" / "wikitext-2-excerpt"
# The joiners and draws of LMDeploy (lite/utils/calib_dataloader.py, 0.6.0) for calibration, of
# GPTQ (datautils.py) for evaluation.
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("excerpt", train=str(EXCERPT / "train.txt"), test=str(EXCERPT / "test.txt")),
        Dataset(
            "wikitext2",
            "Salesforce/wikitext",
            train="wikitext-2-raw-v1/train-00000-of-00001.parquet",
            test="wikitext-2-raw-v1/test-00000-of-00001.parquet",
        ),
        Dataset(
            "ptb",
            "ptb-text-only/ptb_text_only",
            PARQUET_BRANCH,
            train="penn_treebank/train/0000.parquet",
            test="penn_treebank/test/0000.parquet",
            test_joiner=" ",
        ),
        Dataset(
            "c4",
            "allenai/c4",
            train="en/c4-train.00000-of-01024.json.gz",
            test="en/c4-validation.00000-of-00008.json.gz",
            sampling="long",
            test_joiner=" ",
            test_documents=1100,
        ),
        Dataset(
            "pileval",
            "mit-han-lab/pile-val-backup",
            PARQUET_BRANCH,
            train="default/validation/0000.parquet",
            test="default/validation/0000.parquet",
            sampling="short",
            test_documents=1000,
        ),
    )
}


def find_dataset(name: str) -> Dataset:
    """The set that `--calib-dataset name` means; asks no network.

    A name of DATASETS, the path of a .txt, .jsonl or .parquet file, or a Hub id
    `org/name[:config]`. Raises InputError naming the closest when it is none of them.
    """
    if name in DATASETS:
        return DATASETS[name]
    try:
        file = Path(name).expanduser()
        exists = bool(name) and file.exists()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name}: no such file: {error}", hint="check the path") from None
    if exists or name.endswith(ENDINGS) or name.startswith((".", "/", "~")):
        check_text_file(file)
        joiner = "" if file.suffix == ".txt" else "\n\n"
        return Dataset(name, train=str(file), test=str(file), joiner=joiner, test_joiner=joiner)
    if HUB_ID.fullmatch(name):
        repo, _, config = name.partition(":")
        return Dataset(name, repo, PARQUET_BRANCH, config or None)
    close = get_close_matches(name, DATASETS, n=1)
    known = f"closest known: `{close[0]}`" if close else f"known: {', '.join(DATASETS)}"
    raise InputError(f"`{name}`: no such dataset", hint=f"{known}; or give a file, or a Hub id")


def read_text(dataset: str, split: Split, listener: Listener = ignore) -> str:
    """The text to evaluate with: documents joined as the usual recipe joins them.

    Source of the joiners: GPTQ, datautils.py (wikitext2: two newlines; ptb, c4: a space). Longer
    text than MOST_CHARACTERS is cut, and the listener told. Raises as `calibration_tokens`.
    """
    found = find_dataset(dataset)
    rows = _documents(found, split, listener)
    if split == "test":
        rows = islice(rows, found.test_documents)
    joiner = found.test_joiner if split == "test" else found.joiner
    text = _joined(rows, joiner, MOST_CHARACTERS, found.name, listener)
    if not text.strip():
        raise InputError(f"{dataset}: holds no text")
    return text


def calibration_tokens(
    dataset: str,
    tokenizer: Any,
    samples: int,
    length: int,
    seed: int,
    listener: Listener = ignore,
) -> Int64[Tensor, "samples length"]:
    """`samples` rows of `length` token ids from the training split; the same for the same seed.

    Source of the draws: LMDeploy 0.6.0, lite/utils/calib_dataloader.py, but for bounds: of a text
    only the first max(1 Mi, 16 * samples * length) characters are read, of c4 and pileval the
    first 20,000 documents, so that memory and time follow what is asked for.
    Raises InputError for an unreadable or too short text, NetworkError for an unreachable Hub.
    """
    if samples < 1 or length < 1:
        raise ConfigError(f"--calib-samples {samples}, --calib-seqlen {length}: must be positive")
    found = find_dataset(dataset)
    wanted = Wanted(found.name, samples, length, seed)
    rows = _documents(found, "train", listener)
    if found.sampling == "long":
        return long_documents(rows, tokenizer, wanted)
    if found.sampling == "short":
        return short_documents(rows, tokenizer, wanted)
    text = _joined(rows, found.joiner, wanted.characters, found.name, listener)
    return random_windows(text, tokenizer, wanted, listener)


def _documents(dataset: Dataset, split: Split, listener: Listener) -> Iterator[str]:
    if dataset.repo is None:
        return documents(Path(dataset.train if split == "train" else dataset.test))
    name = dataset.train if split == "train" else dataset.test
    if not name:
        name = parquet_name(dataset.repo, dataset.config, split, listener)
    return documents(dataset_file(dataset.repo, dataset.revision, name, LOCAL_HINT))


def _joined(rows: Iterator[str], joiner: str, limit: int, name: str, listener: Listener) -> str:
    """The first `limit` characters of the joined documents."""
    parts, size = [], 0
    for row in rows:
        parts.append(row)
        size += len(row) + len(joiner)
        if size > limit:
            listener(Note(f"{name}: the first {limit:,} characters are used"))
            break
    return joiner.join(parts)[:limit]
