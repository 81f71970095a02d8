import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.mark.slow
def test_the_whole_job(run, work):
    ran = run("demo", "--work-dir", work, "--prompt", "The city of")
    assert ran.code == 0
    for words in ("size on disk", "perplexity (lower is better)", "6.5 MiB",
                  "The city of", "Next", "mindpress chat "):  # fmt: skip
        assert words in ran.out
    for file in ("tiny-llama-awq-w4/report.html", "workspace/triton_models/weights/config.ini",
                 "validation/validation.html", "validation/validation.json"):  # fmt: skip
        assert (work / file).is_file(), file
    figures = json.loads((work / "validation" / "validation.json").read_text())
    (text,) = figures["datasets"]
    assert 40 < text["original_perplexity"] < 90
    assert text["perplexity"] < 1.02 * text["original_perplexity"]
    assert text["kl_divergence"] < 0.01


@pytest.mark.slow
def test_a_second_demo_in_the_same_place_is_refused_at_once(run, work):
    ran = run("demo", "--work-dir", work)
    assert (ran.code, ran.out) == (2, "")
    assert "--overwrite" in ran.err


@pytest.mark.parametrize("name", ["tiny-llama-awq-w4", "workspace", "validation"])
def test_a_folder_in_the_way_is_found_before_the_work(run, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("all of it")
    ran = run("demo", "--work-dir", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert name in ran.err
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_what_the_demo_needs_comes_with_its_licence():
    import mindpress.demo

    folder = Path(mindpress.demo.__file__).parent
    excerpt = folder / "wikitext-2-excerpt"
    assert "Attribution-ShareAlike 3.0" in (excerpt / "LICENSE-CC-BY-SA-3.0.txt").read_text()
    assert "Merity" in (excerpt / "NOTICE.txt").read_text()
    assert (excerpt / "train.txt").stat().st_size > 500_000
    assert (excerpt / "test.txt").stat().st_size > 100_000
    assert (folder / "tiny-llama" / "model.safetensors").stat().st_size < 8_000_000
