"""A plain run by transformers, to measure beside: `generate` on one full batch after another."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as CLASSES
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from mindpress.engine.bench_figures import Trace
from mindpress.engine.bench_runners import Clock, Description
from mindpress.engine.bench_workload import Task, Workload
from mindpress.engine.loader import choose_dtype
from mindpress.engine.memory import device_errors
from mindpress.errors import InputError, MindpressError

HINT = "give a folder that transformers reads, or leave out `hf:`"


def read_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """The config of a model that transformers can run. InputError when it cannot.

    Reads no weights, so that a wrong path is known before anything slow.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # noqa: BLE001 - of many kinds, also from code of the model
        raise _unreadable(folder, error) from None
    if type(config) not in CLASSES and "AutoModelForCausalLM" not in _own_code(config):
        raise InputError(
            f"hf:{folder}: transformers generates no text with `{config.model_type}`", hint=HINT
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"hf:{folder}: holds no *.safetensors", hint=HINT)
    return config


def open_transformers(
    folder: Path, dtype: str, device: torch.device, *, trust_remote_code: bool
) -> "TransformersRunner":
    """Load the model: `auto` is float32 on the CPU and the checkpoint's dtype on CUDA."""
    wanted = "auto" if dtype == "auto" else choose_dtype(dtype, dtype, device)
    if dtype == "auto" and device.type == "cpu":
        wanted = torch.float32
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with device_errors():
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=wanted, trust_remote_code=trust_remote_code, use_safetensors=True
            )
            return TransformersRunner(model.to(device).eval())
    except MindpressError:
        raise
    except Exception as error:  # noqa: BLE001 - of many kinds, also from code of the model
        raise _unreadable(folder, error) from None
    finally:
        if shown:
            logging.enable_progress_bar()


class TransformersRunner:
    """`generate` as it comes, greedy. A batch ends when its longest answer does.

    Prompts of unequal length are padded at the left.
    """

    def __init__(self, model: Any, clock: Clock = time.perf_counter) -> None:
        self._model, self._clock = model, clock
        # The model's own may ask for sampling, penalties and an end of the answer.
        model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)

    @property
    def description(self) -> Description:
        """How it runs."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        method = getattr(self._model.config, "quantization_config", None)
        weights = dtype if method is None else "quantized"
        return Description(f"transformers {transformers.__version__}", dtype, weights, dtype)

    def close(self) -> None:
        """Nothing is left to end."""

    def run(self, work: Workload) -> list[Trace]:
        """Traces of all tasks; those of a batch begin together."""
        traces: list[Trace] = []
        for begin in range(0, len(work.tasks), work.at_once):
            traces += self._batch(work.tasks[begin : begin + work.at_once])
        return traces

    @torch.inference_mode()
    def _batch(self, tasks: Sequence[Task]) -> list[Trace]:
        ids, mask = _padded(tasks, self._model.device)
        longest = max(task.answer for task in tasks)
        watch = self._watch()

        def came(ids: torch.Tensor, *_: object, **_named: object) -> torch.Tensor:
            watch.mark()
            return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

        with device_errors():
            self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=longest,
                min_new_tokens=longest,
                stopping_criteria=[came],
            )
            times = watch.marks()
        return [Trace(len(task.prompt), watch.begun, tuple(times[: task.answer])) for task in tasks]

    def _watch(self) -> "_Watch | _DeviceWatch":
        if self._model.device.type == "cuda":
            return _DeviceWatch(self._clock, self._model.device)
        return _Watch(self._clock)


class _Watch:
    """Notes when each token came."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._marks = clock, list[float]()
        self.begun = clock()

    def mark(self) -> None:
        """A token came."""
        self._marks.append(self._clock())

    def marks(self) -> list[float]:
        """When tokens came, in seconds of the clock."""
        return self._marks


class _DeviceWatch:
    """The same on CUDA, where `generate` runs ahead of the device: waiting for it at every token
    would slow what is measured."""

    def __init__(self, clock: Clock, device: torch.device) -> None:
        torch.cuda.synchronize(device)
        self._device, self._marks = device, list[torch.cuda.Event]()
        self.begun = clock()
        self._start = self._event()

    def mark(self) -> None:
        """A token will have come when the device is here."""
        self._marks.append(self._event())

    def marks(self) -> list[float]:
        """When tokens came; waits for the last."""
        torch.cuda.synchronize(self._device)
        return [self.begun + self._start.elapsed_time(mark) / 1000 for mark in self._marks]

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _padded(tasks: Sequence[Task], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, batch x longest; zeros at the left of shorter prompts."""
    longest = max(len(task.prompt) for task in tasks)
    rows = [[0] * (longest - len(task.prompt)) + list(task.prompt) for task in tasks]
    masks = [[0] * (longest - len(task.prompt)) + [1] * len(task.prompt) for task in tasks]
    return torch.tensor(rows, device=device), torch.tensor(masks, device=device)


def _own_code(config: Any) -> Any:
    return getattr(config, "auto_map", None) or {}


def _unreadable(folder: Path, error: Exception) -> InputError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if "trust_remote_code" in str(error):
        hint = "read its .py files, and if you trust them add --trust-remote-code"
        return InputError(f"hf:{folder}: the model is code of its own, which is not run", hint=hint)
    return InputError(f"hf:{folder}: transformers cannot load it: {reason}", hint=HINT)
