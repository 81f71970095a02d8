"""Every file is the one LMDeploy wrote: 3 releases, 4 models, tensor parallel over 1 and 2."""

import hashlib
import json
from pathlib import Path

import pytest

from mindpress.checkpoint.manifest import NAME
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
VERSIONS = {"0.2.6": "0.2", "0.5.3": "0.5", "0.6.0": "0.6"}
MANIFEST = json.loads((GOLDEN / "ws" / "sha256.json").read_text())


@pytest.mark.parametrize("case", sorted(MANIFEST))
def test_every_file_is_identical(case, tmp_path):
    release, name = case.split("/")
    model, tp = name.split(".tp")
    report = convert_model(
        Conversion(
            source=str(GOLDEN / "hf" / model),
            target=tmp_path / "workspace",
            model_name="llama2",
            tp=int(tp),
            tm_version=VERSIONS[release],
        )
    )
    written = {
        str(file.relative_to(report.target)): file
        for file in report.target.rglob("*")
        if file.is_file()
    }
    written.pop(NAME)
    for config in (GOLDEN / "ws" / case).iterdir():
        assert written[f"triton_models/weights/{config.name}"].read_text() == config.read_text()
    hashes = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in written.items()}
    assert hashes == MANIFEST[case]
    assert report.files == len(written)
    assert report.bytes == sum(file.stat().st_size for file in written.values())


def test_all_cases_are_there():
    assert len(MANIFEST) == 24
