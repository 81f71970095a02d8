"""Measure several models, each beside the original they were made from, one after the other."""

import gc
import time

import torch

from mindpress.device import choose_device
from mindpress.engine.compare_page import compare_page
from mindpress.engine.compare_report import ComparedModel, CompareReport, save, short_names
from mindpress.engine.compare_settings import Comparison
from mindpress.engine.decoder import Decoder
from mindpress.engine.loader import choose_dtype
from mindpress.engine.machine import device_name, versions
from mindpress.engine.memory import PeakMemory, device_errors
from mindpress.engine.report_files import check_output
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
from mindpress.events import Listener, Note, ignore, noting


def compare(settings: Comparison, listener: Listener = ignore) -> CompareReport:
    """Score every model on the same windows beside the original, and write the report.

    Paths, tokenizers, vocabularies, texts and the output folder are checked before weights are
    read. Peak memory: the original and one model, in the type they compute in, and what
    `score_windows` says. The original stays loaded; its predictions are computed again for every
    model, since those of a whole text (tokens x vocabulary) would not fit in memory.
    """
    begun = time.perf_counter()
    notes, say = noting(listener)
    check_output(settings.output)
    choose_dtype(settings.dtype, "float32", choose_device(settings.device))
    original = open_subject(settings.against, settings.original)
    models = [open_subject(path, settings.validation(path)) for path in settings.paths]
    for model in models:
        check_same_vocabulary(model, original)
    texts = read_texts(settings.original, [original, *models], say)
    warm_up(original, settings.original)
    decoder, figures = measure_subject(original, settings.original.engine, say)
    names = short_names(settings.paths)
    compared = []
    for name, model in zip(names, models, strict=True):
        listener(Note(f"{name}: {len(compared) + 1} of {len(models)}"))
        compared.append(_compared(name, model, settings, texts, decoder, say))
        _free(decoder.device)
    report = CompareReport(
        original=figures,
        models=tuple(compared),
        device=device_name(decoder.device),
        threads=torch.get_num_threads(),
        seconds=time.perf_counter() - begun,
        versions=versions(),
        notes=tuple(notes),
        output=str(settings.output),
    )
    save(report, compare_page(report), settings.output)
    return report


def _compared(
    name: str,
    model: Subject,
    settings: Comparison,
    texts: list[Text],
    original: Decoder,
    say: Listener,
) -> ComparedModel:
    """One model; it is let go when this returns."""
    engine = settings.validation(model.path).engine
    decoder, figures = measure_subject(model, engine, say)
    with PeakMemory(decoder.device) as scoring, device_errors():
        scores = tuple(score_text(decoder, text, original, say) for text in texts)
    return ComparedModel(name, figures, scores, scoring.bytes)


def _free(device: torch.device) -> None:
    """Give back what the last model held, so that the next finds it free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
