"""The parsers of small files under inputs that are bred towards code not run so far (atheris).

    pip install "atheris>=3,<4"
    python -m tests.stress.guided --runs 1000000 --save      results/guided.json

Where `mutate` damages whole inputs at random, libFuzzer sees here which lines of the parsers an
input reaches, and goes on from those that reach new ones. It stops at the first fault.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

RESULTS = Path(__file__).parent / "results" / "guided.json"
INSTRUMENTED = ("mindpress.models", "mindpress.formats", "mindpress.checkpoint.reader",
                "mindpress.sources.layouts", "mindpress.sources.workspace", "mindpress.calib",
                "configparser", "yaml")  # fmt: skip
WEIGHTS = "triton_models/weights/"
PARSERS = ("config", "ini", "yaml", "statistics", "rows", "shard", "index")
SECONDS, MEMORY_MIB, LONGEST = 5, 4096, 2048
FIGURES = {
    "inputs": r"stat::number_of_executed_units: *(\d+)",
    "edges_covered": r"cov: (\d+)(?!.*cov: )",
    "peak_rss_mib": r"stat::peak_rss_mb: *(\d+)",
}


def fuzz(arguments: list[str], home: Path) -> None:
    """Hand the process to libFuzzer, which ends it."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        from mindpress.calib.statistics_header import read_header
        from mindpress.calib.text_files import documents
        from mindpress.checkpoint.reader import open_checkpoint, read_json
        from mindpress.errors import MindpressError
        from mindpress.formats.activations import read_activations
        from mindpress.models.shape import architecture_of, read_shape
        from mindpress.sources.layouts import read_layout
        from mindpress.sources.workspace import read_workspace_config

    def config(file: Path) -> None:
        found = read_json(file)
        with suppress(MindpressError):
            read_shape(found, architecture_of(found))
        quantization = found.get("quantization_config")
        if quantization is not None:
            read_layout(quantization).skips("model.layers.0.mlp.up_proj")
            read_activations(quantization)

    readers: dict[str, tuple[str, Callable[[Path], object]]] = {
        "config": ("config.json", config),
        "ini": (WEIGHTS + "config.ini", lambda _: read_workspace_config(home / "ini").shape),
        "yaml": (WEIGHTS + "config.yaml", lambda _: read_workspace_config(home / "yaml").shape),
        "statistics": ("statistics.json", lambda file: read_header(file.parent).shapes()),
        "rows": ("rows.jsonl", lambda file: list(documents(file))),
        "shard": ("model.safetensors", lambda file: open_checkpoint(file.parent).nbytes),
        "index": ("model.safetensors.index.json", lambda file: open_checkpoint(file.parent)),
    }

    def one(data: bytes) -> None:
        """The first byte says which parser reads the rest."""
        parser = PARSERS[data[0] % len(PARSERS)] if data else "config"
        name, read = readers[parser]
        file = home / parser / name
        file.write_bytes(data[1:])
        with suppress(MindpressError):
            read(file)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def _corpus(home: Path, corpus: Path) -> None:
    """Undamaged files of every kind, to begin with."""
    from tests.stress.undamaged import write_inputs

    write_inputs(home / "inputs")
    files = {
        "config": ["llama/config.json", "gemma2/config.json", "phi3/config.json",
                   "awq/config.json", "gptq/config.json", "packed/config.json"],
        "ini": [f"ini/{WEIGHTS}config.ini"],
        "yaml": [f"yaml/{WEIGHTS}config.yaml"],
        "statistics": ["statistics/statistics.json"],
        "rows": ["texts/rows.jsonl", "texts/chats.jsonl"],
        "index": ["sharded/model.safetensors.index.json"],
    }  # fmt: skip
    corpus.mkdir()
    for number, parser in enumerate(PARSERS):
        (home / parser / WEIGHTS).mkdir(parents=True)
        for place, name in enumerate(files.get(parser, ())):
            data = (home / "inputs" / name).read_bytes()[: LONGEST - 1]
            (corpus / f"{parser}-{place}").write_bytes(bytes([number]) + data)
    header = b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
    shard = len(header).to_bytes(8, "little") + header + bytes(24)
    (corpus / "shard-0").write_bytes(bytes([PARSERS.index("shard")]) + shard)
    (home / "index" / "model-1.safetensors").write_bytes(shard)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--fuzz", nargs=2, metavar=("HOME", "RUNS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fuzz:
        home, runs = Path(given.fuzz[0]), given.fuzz[1]
        fuzz([f"-runs={runs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MIB}", "-seed=1",
              f"-max_len={LONGEST}", "-print_final_stats=1", f"-artifact_prefix={home}/",
              str(home / "corpus")], home)  # fmt: skip
    with TemporaryDirectory() as folder:
        home = Path(folder)
        _corpus(home, home / "corpus")
        begun = time.monotonic()
        call = [sys.executable, "-m", "tests.stress.guided", "--fuzz", folder, str(given.runs)]
        done = subprocess.run(call, capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode(errors="replace")
    figures = {name: _figure(pattern, said) for name, pattern in FIGURES.items()}
    figures |= {"seconds": round(time.monotonic() - begun), "faults": int(done.returncode != 0)}
    if done.returncode:
        print(said[-6000:])  # noqa: T201
    _report(figures, save=given.save)
    return done.returncode


def _figure(pattern: str, said: str) -> int | None:
    found = re.search(pattern, said, re.DOTALL)
    return int(found.group(1)) if found else None


def _report(figures: dict[str, int | None], *, save: bool) -> None:
    from benchmarks.machine import machine

    command = f"python -m tests.stress.guided {' '.join(sys.argv[1:])}".strip()
    text = json.dumps({"command": command, "machine": machine(), **figures}, indent=2)
    print(text)  # noqa: T201
    if save:
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
