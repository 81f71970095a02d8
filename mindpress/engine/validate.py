"""Measure a model, alone or beside the one it was made from."""

import time
from dataclasses import replace

import torch

from mindpress.device import choose_device
from mindpress.engine.cache_figures import CacheFigures, cache_plans, measure_caches
from mindpress.engine.decoder import Decoder
from mindpress.engine.loader import choose_dtype
from mindpress.engine.machine import device_name, versions
from mindpress.engine.memory import PeakMemory, device_errors
from mindpress.engine.report_files import check_output
from mindpress.engine.settings import Validation
from mindpress.engine.validation_page import validation_page
from mindpress.engine.validation_report import ValidationReport, save
from mindpress.engine.validation_steps import (
    Subject,
    Text,
    check_same_vocabulary,
    measure_subject,
    open_subject,
    read_texts,
    score_text,
    warm_up,
)
from mindpress.events import Listener, ignore, noting


def validate(settings: Validation, listener: Listener = ignore) -> ValidationReport:
    """Score the datasets, measure speed and memory, write the report to `settings.output`.

    Models, tokenizers, texts and the output folder are checked before weights are read. Peak
    memory: both models in their compute dtype, and what `score_windows` says.
    """
    begun = time.perf_counter()
    notes, say = noting(listener)
    check_output(settings.output)
    choose_dtype(settings.dtype, "float32", choose_device(settings.device))
    model = open_subject(settings.path, settings, settings.revision)
    original = None if settings.against is None else open_subject(settings.against, settings)
    if original:
        check_same_vocabulary(model, original)
    texts = read_texts(settings, [model, *([original] if original else [])], say)
    warm_up(model, settings)
    decoder, figures = measure_subject(model, settings.engine, say)
    exact = replace(settings.engine, quant_policy=0)
    other, other_figures = measure_subject(original, exact, say) if original else (None, None)
    with PeakMemory(decoder.device) as scoring, device_errors():
        scores = tuple(score_text(decoder, text, other, say) for text in texts)
        caches = _caches(settings, model, decoder, texts[0], other, say)
    report = ValidationReport(
        model=figures,
        original=other_figures,
        datasets=scores,
        caches=caches,
        cache_memory=settings.cache_memory,
        device=device_name(decoder.device),
        threads=torch.get_num_threads(),
        scoring_memory=scoring.bytes,
        seconds=time.perf_counter() - begun,
        versions=versions(),
        notes=tuple(notes),
        output=str(settings.output),
    )
    save(report, validation_page(report), settings.output)
    return report


def _caches(
    settings: Validation,
    model: Subject,
    decoder: Decoder,
    text: Text,
    original: Decoder | None,
    say: Listener,
) -> tuple[CacheFigures, ...]:
    if not settings.caches:
        return ()
    plans = cache_plans(model.source)
    return measure_caches(decoder, plans, text.windows, original, settings.cache_memory, say)
