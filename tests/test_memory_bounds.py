"""What a command says it will take is what it takes at most, and not far from it.

Each is measured in a process of its own on a model whose weights are larger than all else.
"""

from pathlib import Path

import pytest

from mindpress.convert.planning import plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.engine.bench_plan import plan_bench
from mindpress.engine.bench_settings import Bench, Load
from mindpress.engine.chat import plan_chat
from mindpress.engine.config import EngineConfig
from mindpress.engine.settings import Validation
from mindpress.engine.validate import plan_validation
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.calibration_plan import check_calibration
from mindpress.lite.plan import plan_quantization
from mindpress.lite.recipe import Calibration, Recipe, smooth_quant_recipe
from mindpress.memory import FIRST_USE_BYTES
from tests.peak_of import peak_of, write_models

# A bound that is further off than this says nothing.
MOST_TIMES = 2.0
SEEN = Calibration("excerpt", 8, 256, batch_size=2)

QUANTIZE = """
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration, Recipe
def do(model, target, length):
    calibration = Calibration("excerpt", 8, length, batch_size=2)
    recipe = Recipe(str(model), group_size=64, calibration=calibration, {})
    quantize_model(recipe, target)
"""
CALIBRATE = """
from mindpress.lite.calibrate import calibrate_model
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.recipe import Calibration
def do(model, target, length):
    calibration = Calibration("excerpt", 8, length, batch_size=2)
    calibrate_model(CalibrationRun(str(model), calibration=calibration), target)
"""
CONVERT = """
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
def do(model, target, length):
    convert_model(Conversion(str(model), target))
"""
VALIDATE = """
from mindpress.engine.settings import Validation
from mindpress.engine.validate import validate
def do(model, target, length):
    validate(Validation(str(model), str(model), ("excerpt",), length, 2, "cpu", output=target))
"""
SMOOTH = """
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration, smooth_quant_recipe
def do(model, target, length):
    calibration = Calibration("excerpt", 8, length, batch_size=2)
    quantize_model(smooth_quant_recipe(str(model), calibration), target)
"""
CHAT = """
from mindpress.engine.chat import open_chat
from mindpress.engine.config import EngineConfig, GenerationConfig
def do(model, target, length):
    session = open_chat(model, EngineConfig("cpu", session_len=256))
    answer = GenerationConfig(max_new_tokens=128, ignore_eos=True, seed=0)
    list(session.ask("a " * (length // 4), answer))
"""
BENCH = """
from mindpress.engine.bench import bench
from tests.test_memory_bounds import measurement
def do(model, target, length):
    bench(measurement(model, length))
"""


def measurement(model, length):
    engine = EngineConfig("cpu", max_batch_size=8)
    return Bench("throughput", str(model), (Load(8, 8),), input_len=length, output_len=8, warmup=0,
                 repeats=1, against=str(model), engine=engine)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


def quantization(**settings):
    def bound(model, target):
        recipe = Recipe(str(model), group_size=64, calibration=SEEN, **settings)
        return plan_quantization(recipe).peak_memory

    return bound


def calibration(model, target):
    return check_calibration(CalibrationRun(str(model), calibration=SEEN), target).peak_memory


def conversion(model, target):
    return plan_conversion(Conversion(str(model), target)).peak_memory


def validation(model, target):
    asked = Validation(str(model), str(model), ("excerpt",), 256, 2, "cpu", output=target)
    return plan_validation(asked).peak_memory_bytes


def smoothing(model, target):
    return plan_quantization(smooth_quant_recipe(str(model), SEEN)).peak_memory


def chatting(model, target):
    return plan_chat(model, EngineConfig("cpu", session_len=256)).peak_memory_bytes


def measuring(model, target):
    return plan_bench(measurement(model, 256)).peak_memory_bytes


@pytest.mark.parametrize(("work", "bound"), [
    pytest.param(QUANTIZE.format(""), quantization(), id="auto-awq"),
    pytest.param(QUANTIZE.format("rounding='nearest', target_bpw=6.5"),
                 quantization(rounding="nearest", target_bpw=6.5), id="auto-awq mixed"),
    pytest.param(SMOOTH, smoothing, id="smooth-quant"),
    pytest.param(CALIBRATE, calibration, id="calibrate"),
    pytest.param(CONVERT, conversion, id="convert"),
    pytest.param(VALIDATE, validation, id="validate --against"),
    pytest.param(CHAT, chatting, id="chat"),
    pytest.param(BENCH, measuring, id="bench --against"),
])  # fmt: skip
def test_the_peak_is_within_the_bound(models, tmp_path: Path, work, bound):
    said = bound(models[1], tmp_path / "out") - FIRST_USE_BYTES  # which peak_of leaves out
    taken = peak_of(work, models, tmp_path)
    assert taken <= said, f"{taken / 2**20:.0f} MiB taken, {said / 2**20:.0f} said"
    assert said <= MOST_TIMES * taken, f"{taken / 2**20:.0f} MiB taken, {said / 2**20:.0f} said"
