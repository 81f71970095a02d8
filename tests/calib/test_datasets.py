"""Calibration text as a user gives it: named sets, files, and the Hub (one on this machine)."""

import gzip
import json
import logging
import random
import time
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from huggingface_hub import constants
from loopback_hub import loopback_hub
from tiny_models import TOKENIZER
from transformers import AutoTokenizer

from mindpress.calib.datasets import calibration_tokens, find_dataset, read_text
from mindpress.calib.windows import tokenize
from mindpress.errors import ConfigError, InputError, NetworkError

SENTENCE = "The quick brown fox jumps over the lazy dog while the rain falls on the old town. "
NOWHERE = "http://127.0.0.1:9"  # the port of the discard service, which nobody runs


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    file = tmp_path / "prose.txt"
    file.write_text("\n".join(f"{number} {SENTENCE}" for number in range(300)))
    return file


def write_parquet(file: Path, column: str, rows: list) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table({column: rows}), file)
    return file


def write_lines(file: Path, rows: list) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    return file


class TestWindows:
    def test_they_are_those_of_lmdeploy(self, prose, tokenizer):
        """lite/utils/calib_dataloader.py: the text tokenized once, randint(0, T - length)."""
        tokens = torch.tensor(tokenizer(prose.read_text())["input_ids"])
        draw = random.Random(7)
        starts = [draw.randint(0, len(tokens) - 64) for _ in range(5)]
        expected = torch.stack([tokens[start : start + 64] for start in starts])
        assert torch.equal(calibration_tokens(str(prose), tokenizer, 5, 64, 7), expected)

    def test_another_seed_draws_others(self, prose, tokenizer):
        first = calibration_tokens(str(prose), tokenizer, 5, 64, 0)
        assert torch.equal(first, calibration_tokens(str(prose), tokenizer, 5, 64, 0))
        assert not torch.equal(first, calibration_tokens(str(prose), tokenizer, 5, 64, 1))

    def test_the_embedded_text_needs_no_network(self, tokenizer):
        assert calibration_tokens("excerpt", tokenizer, 8, 256, 0).shape == (8, 256)
        assert len(read_text("excerpt", "test")) > 50_000

    def test_a_text_that_fits_one_window_gives_as_many_as_asked(self, tmp_path, tokenizer):
        file = tmp_path / "short.txt"
        file.write_text(SENTENCE)
        length = len(tokenizer(SENTENCE)["input_ids"])
        notes = []
        tokens = calibration_tokens(str(file), tokenizer, 3, length, 0, notes.append)
        assert torch.equal(tokens, tokens[:1].expand(3, -1))
        assert "windows overlap" in notes[0].text

    def test_a_text_shorter_than_a_window_is_refused_with_counts(self, tmp_path, tokenizer):
        file = tmp_path / "short.txt"
        file.write_text(SENTENCE)
        found = len(tokenizer(SENTENCE)["input_ids"])
        with pytest.raises(InputError, match=f"{found} tokens, a window needs 2048") as caught:
            calibration_tokens(str(file), tokenizer, 128, 2048, 0)
        assert f"--calib-seqlen to {found}" in caught.value.hint

    @pytest.mark.parametrize("content", ["", "\n"], ids=["empty", "blank"])
    def test_an_empty_text_is_refused(self, tmp_path, tokenizer, content):
        file = tmp_path / "empty.txt"
        file.write_text(content)
        with pytest.raises(InputError, match=r"empty\.txt: holds no text"):
            calibration_tokens(str(file), tokenizer, 1, 16, 0)
        with pytest.raises(InputError, match=r"empty\.txt: holds no text"):
            read_text(str(file), "test")

    def test_nothing_asked_is_refused(self, prose, tokenizer):
        with pytest.raises(ConfigError, match="--calib-samples 0"):
            calibration_tokens(str(prose), tokenizer, 0, 16, 0)

    def test_only_as_much_is_read_as_is_needed(self, tmp_path, tokenizer):
        """The file continues with what is not UTF-8: reading all of it would fail."""
        file = tmp_path / "long.txt"
        file.write_bytes(SENTENCE.encode() * 40_000 + b"\xff" * 10)
        notes = []
        tokens = calibration_tokens(str(file), tokenizer, 2, 64, 0, notes.append)
        assert tokens.shape == (2, 64)
        assert "first 1,048,576 characters" in notes[0].text

    def test_tokenizers_do_not_complain_about_the_length(self, prose, caplog):
        """They do so once, through a logger that does not propagate."""
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
        logger = logging.getLogger("transformers")
        logger.addHandler(caplog.handler)
        try:
            assert len(tokenize(prose.read_text(), tokenizer)) > tokenizer.model_max_length
        finally:
            logger.removeHandler(caplog.handler)
        assert not caplog.records


class TestFiles:
    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            ([{"text": "one"}, {"text": ""}, {"text": "two"}], "one\n\ntwo"),
            ([{"id": 1, "content": "one"}], "one"),
            ([{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}], "a\nb"),
            ([{"text": "half \ud83d a character"}], "half ? a character"),
        ],
        ids=["text", "content", "messages", "surrogate"],
    )
    def test_lines_of_json(self, tmp_path, rows, expected):
        assert read_text(str(write_lines(tmp_path / "a.jsonl", rows)), "test") == expected

    @pytest.mark.parametrize("column", ["text", "sentence", "content"])
    def test_parquet(self, tmp_path, column):
        file = write_parquet(tmp_path / "a.parquet", column, ["one", None, "two"])
        assert read_text(str(file), "train") == "one\n\ntwo"

    def test_text_is_kept_as_it_is(self, tmp_path):
        file = tmp_path / "a.txt"
        file.write_text("\ufeffone\n\n two \n" * 100_000, encoding="utf-8")
        assert read_text(str(file), "test") == file.read_text(encoding="utf-8-sig")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", b"caf\xe9 au lait", r"a\.txt: not UTF-8 text \(byte 0xe9\)"),
            ("a.jsonl", b'{"text": "one"}\n\n{"text": ', r"a\.jsonl: line 3: not JSON"),
            ("a.jsonl", b"[1, 2]\n", r"line 1: holds list"),
            ("a.jsonl", b"[" * 100_000, r"line 1: not JSON"),
            ("a.jsonl", b'{"text": 5}\n', r"line 1: `text` is of type int"),
            ("a.jsonl", b'{"body": "x", "id": 3}\n', r"line 1: no text in columns body, id"),
            ("a.jsonl", b'{"messages": "x"}\n', r"line 1: `messages` is no list"),
            ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: cannot be read"),
            ("a.parquet", b"PAR1 but not really", r"a\.parquet: damaged or not a parquet"),
            ("a.csv", b"text\n", r"a\.csv: not a text file"),
        ],
    )
    def test_bad_ones_are_named(self, tmp_path, tokenizer, name, content, message):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            calibration_tokens(str(file), tokenizer, 1, 4, 0)
        assert "\n" not in str(caught.value)

    def test_a_damaged_gzip_is_named(self, tmp_path):
        file = write_lines(tmp_path / "a.jsonl.gz", [{"text": SENTENCE}] * 99)
        file.write_bytes(file.read_bytes()[:60])
        with pytest.raises(InputError, match=r"a\.jsonl\.gz: cannot be read"):
            read_text(str(file), "test")

    def test_a_parquet_file_without_text_names_its_columns(self, tmp_path):
        file = write_parquet(tmp_path / "a.parquet", "labels", [1])
        with pytest.raises(InputError, match="no text in columns labels"):
            read_text(str(file), "test")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("wikitext", "no such dataset", "closest known: `wikitext2`"),
        ("PTB2", "no such dataset", "known: "),
        ("missing.txt", "missing.txt: no such file", "path"),
        ("./missing", "missing: no such file", "path"),
        ("a/b/c", "no such dataset", "known: "),
        ("", "``: no such dataset", "known: "),
        ("/", "is a folder", ".jsonl"),
        ("~nobody9/a.txt", "no such file", "path"),
        ("x" * 300, "no such file", "path"),
    ],
)
def test_a_set_that_is_none_is_refused(name, message, hint):
    with pytest.raises(InputError, match=message) as caught:
        find_dataset(name)
    assert hint in caught.value.hint


@pytest.mark.usefixtures("hub")
class TestHub:
    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        with loopback_hub(tmp_path / "hub", tmp_path / "cache", monkeypatch) as asked:
            yield asked

    def home(self, tmp_path: Path, repo: str, revision: str = "refs-convert-parquet") -> Path:
        return tmp_path / "hub" / "datasets" / repo / revision

    def test_wikitext2(self, tmp_path, tokenizer):
        home = self.home(tmp_path, "Salesforce/wikitext", "main") / "wikitext-2-raw-v1"
        write_parquet(home / "train-00000-of-00001.parquet", "text", [SENTENCE] * 50)
        write_parquet(home / "test-00000-of-00001.parquet", "text", [" = A = \n", " b \n"])
        assert calibration_tokens("wikitext2", tokenizer, 2, 32, 0).shape == (2, 32)
        assert read_text("wikitext2", "test") == " = A = \n\n\n b \n"

    def test_ptb_is_read_from_the_parquet_branch(self, tmp_path):
        home = self.home(tmp_path, "ptb-text-only/ptb_text_only") / "penn_treebank"
        write_parquet(home / "test" / "0000.parquet", "sentence", ["a b", "c <unk>"])
        assert read_text("ptb", "test") == "a b c <unk>"

    def test_c4_draws_from_documents_that_hold_a_window(self, tmp_path, tokenizer):
        rows = [{"text": SENTENCE * (20 if number % 9 == 0 else 1)} for number in range(90)]
        write_lines(
            self.home(tmp_path, "allenai/c4", "main") / "en/c4-train.00000-of-01024.json.gz", rows
        )
        tokens = calibration_tokens("c4", tokenizer, 30, 128, 0)
        assert tokens.shape == (30, 128)
        assert len({tuple(row) for row in tokens.tolist()}) > 10
        with pytest.raises(InputError, match="no document of more than") as caught:
            calibration_tokens("c4", tokenizer, 1, 1024, 0)
        assert "--calib-seqlen" in caught.value.hint

    def test_pileval_joins_short_documents(self, tmp_path, tokenizer):
        short = [f"{number} {SENTENCE}" for number in range(40)]
        write_parquet(
            self.home(tmp_path, "mit-han-lab/pile-val-backup") / "default/validation/0000.parquet",
            "text",
            [*short, SENTENCE * 60, "", " "],
        )
        tokens = calibration_tokens("pileval", tokenizer, 4, 100, 0)
        assert tokens.shape == (4, 100)
        assert tokenizer.decode(tokens[0]).count(SENTENCE.strip()) > 1
        there = sum(len(tokenizer(text.strip())["input_ids"]) for text in short)
        with pytest.raises(InputError, match=f"{there} tokens .* 1 samples of {there + 1}"):
            calibration_tokens("pileval", tokenizer, 1, there + 1, 0)

    def test_any_id_and_once_it_is_cached_without_the_hub(self, tmp_path, tokenizer, monkeypatch):
        home = self.home(tmp_path, "some/prose")
        write_parquet(home / "default/partial-train/0000.parquet", "content", [SENTENCE] * 9)
        notes = []
        first = calibration_tokens("some/prose", tokenizer, 2, 16, 0, notes.append)
        monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
        again = calibration_tokens("some/prose:default", tokenizer, 2, 16, 0)
        assert torch.equal(first, again)
        assert read_text("some/prose", "test", notes.append).startswith(SENTENCE)
        assert "no split `test`: `train` is read" in notes[-1].text

    def test_a_configuration_is_asked_for_when_there_are_several(self, tmp_path, tokenizer):
        home = self.home(tmp_path, "many/tongues")
        for config in ("de", "fr"):
            write_parquet(home / config / "train/0000.parquet", "text", [config * 40])
        with pytest.raises(InputError, match="several configurations") as caught:
            calibration_tokens("many/tongues", tokenizer, 1, 8, 0)
        assert "many/tongues:CONFIG with one of de, fr" in caught.value.hint
        with pytest.raises(InputError, match="no configuration `en`"):
            calibration_tokens("many/tongues:en", tokenizer, 1, 8, 0)
        assert read_text("many/tongues:fr", "train") == "fr" * 40

    def test_what_the_hub_does_not_have(self, tmp_path):
        with pytest.raises(NetworkError, match="dataset no/such: the Hub has no such repository"):
            read_text("no/such", "train")
        self.home(tmp_path, "only/scripts", "main").mkdir(parents=True)
        with pytest.raises(NetworkError, match="no such revision"):
            read_text("only/scripts", "train")

    def test_it_asks_little(self, tmp_path, hub):
        home = self.home(tmp_path, "ptb-text-only/ptb_text_only") / "penn_treebank"
        write_parquet(home / "test" / "0000.parquet", "sentence", ["a b"])
        read_text("ptb", "test")
        count = len(hub)
        read_text("ptb", "test")
        assert len(hub) == count <= 4


@pytest.mark.parametrize("name", ["wikitext2", "ptb", "c4", "pileval", "some/set", "some/set:de"])
def test_without_a_hub_the_local_way_is_named_at_once(name, tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(NetworkError, match="the Hub cannot be reached") as caught:
        calibration_tokens(name, tokenizer, 1, 16, 0)
    assert time.monotonic() - begin < 5
    assert "excerpt" in caught.value.hint
    assert "a .txt, .jsonl or .parquet file of your own" in caught.value.hint
