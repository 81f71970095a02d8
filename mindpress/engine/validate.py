"""Measure a model, alone or beside the one it was made from."""

import time
from dataclasses import replace

import torch

from mindpress.device import choose_device
from mindpress.engine.cache_figures import CacheFigures, cache_plans, measure_caches
from mindpress.engine.decoder import Decoder
from mindpress.engine.kept import Kept, kept_beside
from mindpress.engine.loader import choose_dtype
from mindpress.engine.machine import device_name, versions
from mindpress.engine.perplexity import Score, Windows, score_windows
from mindpress.engine.report_files import check_output
from mindpress.engine.settings import Validation
from mindpress.engine.validation_page import validation_page
from mindpress.engine.validation_plan import ValidationPlan, plan_of
from mindpress.engine.validation_report import ValidationReport, save
from mindpress.engine.validation_steps import (
    Subject,
    Text,
    check_same_vocabulary,
    measure_subject,
    open_subject,
    peak_kept,
    read_texts,
    run_fingerprint,
    score_texts,
    warm_up,
)
from mindpress.events import Listener, ignore, noting


def validate(settings: Validation, listener: Listener = ignore) -> ValidationReport:
    """Score the datasets, measure speed and memory, write the report to `settings.output`.

    Models, tokenizers, texts and the output folder are checked before weights are read. What was
    measured is kept beside the output until the report is written: the same call goes on with it
    after an interruption. Peak memory: both models in their compute dtype, and what
    `score_windows` says.
    """
    begun = time.perf_counter()
    notes, say = noting(listener)
    model, original, texts = _checked(settings, say)
    subjects = [model, *([original] if original else [])]
    run = run_fingerprint(settings, subjects, texts)
    with kept_beside(
        settings.output, "validation", run, listener, overwrite=settings.overwrite
    ) as kept:
        report = _measured(settings, model, original, texts, kept, say)
        seconds = kept.seconds + time.perf_counter() - begun
        report = replace(report, seconds=seconds, notes=tuple(notes))
        save(report, validation_page(report), settings.output)
    return report


def plan_validation(settings: Validation, listener: Listener = ignore) -> ValidationPlan:
    """What `validate` would do, checked as it checks it; reads no weights, writes nothing."""
    notes, say = noting(listener)
    model, original, texts = _checked(settings, say)
    return plan_of(settings.engine, [model], original, texts, notes, caches=settings.caches)


def _checked(settings: Validation, say: Listener) -> tuple[Subject, Subject | None, list[Text]]:
    """The model, the original, and the texts."""
    check_output(settings.output)
    choose_dtype(settings.dtype, "float32", choose_device(settings.device))
    model = open_subject(settings.path, settings, settings.revision)
    original = None if settings.against is None else open_subject(settings.against, settings)
    if original:
        check_same_vocabulary(model, original)
    return model, original, read_texts(settings, [model, *([original] if original else [])], say)


def _measured(
    settings: Validation,
    model: Subject,
    original: Subject | None,
    texts: list[Text],
    kept: Kept,
    say: Listener,
) -> ValidationReport:
    """The report, but for what is known at the end only."""
    if not kept.get("model: figures"):
        warm_up(model, settings)
    decoder, figures = measure_subject(model, settings.engine, say, kept.below("model"))
    exact = replace(settings.engine, quant_policy=0)
    other, other_figures = None, None
    if original:
        other, other_figures = measure_subject(original, exact, say, kept.below("original"))
    scores, scoring = score_texts(decoder, texts, other, say, kept)
    caches: tuple[CacheFigures, ...] = ()
    if settings.caches:
        part = kept.below("caches")

        def score(one: Decoder, some: Windows, exact: Decoder, name: str) -> Score:
            return score_windows(one, some, exact, name=name, listener=say, kept=part.below(name))

        plans, windows, room = cache_plans(model.source), texts[0].windows, settings.cache_memory
        with peak_kept(decoder.device, part) as peak:
            caches = measure_caches(decoder, plans, windows, other, room, score)
        scoring = max(scoring, peak.bytes)
    return ValidationReport(
        model=figures,
        original=other_figures,
        datasets=scores,
        caches=caches,
        cache_memory=settings.cache_memory,
        device=device_name(decoder.device),
        threads=torch.get_num_threads(),
        scoring_memory=scoring,
        seconds=0.0,
        versions=versions(),
        output=str(settings.output),
    )
