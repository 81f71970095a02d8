"""A tiny model, and the same quantized, that the tests of whole runs only read."""

import pytest

from mindpress.lite.quantize import quantize_model
from tests.short_runs import recipe
from tests.tiny_models import save_tiny


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def quantized(llama, tmp_path_factory):
    target = tmp_path_factory.mktemp("out") / "awq"
    return quantize_model(recipe(llama), target)
