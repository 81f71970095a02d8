"""Measure several models, each beside the original they were made from, one after the other."""

import gc
import time
from dataclasses import dataclass

import torch

from mindpress.device import choose_device
from mindpress.engine.compare_page import compare_page
from mindpress.engine.compare_report import (
    ComparedModel,
    CompareReport,
    compared_from,
    save,
    short_names,
)
from mindpress.engine.compare_settings import Comparison
from mindpress.engine.decoder import Decoder
from mindpress.engine.kept import Kept, kept_beside
from mindpress.engine.loader import choose_dtype
from mindpress.engine.machine import device_name, versions
from mindpress.engine.report_files import check_output, plain
from mindpress.engine.validation_plan import ValidationPlan, plan_of
from mindpress.engine.validation_steps import (
    Subject,
    Text,
    check_same_vocabulary,
    measure_subject,
    open_subject,
    read_texts,
    run_fingerprint,
    score_texts,
    warm_up,
)
from mindpress.events import Listener, Note, ignore, noting


def compare(settings: Comparison, listener: Listener = ignore) -> CompareReport:
    """Score every model on the same windows beside the original, and write the report.

    Paths, tokenizers, vocabularies, texts and the output folder are checked before weights are
    read. Peak memory: the original and one model, in the type they compute in, and what
    `score_windows` says. The original stays loaded; its predictions are computed again for every
    model, since those of a whole text (tokens x vocabulary) would not fit in memory. What was
    measured is kept beside the output until the report is written: the same call goes on with it
    after an interruption.
    """
    begun = time.perf_counter()
    notes, say = noting(listener)
    original, models, texts = _checked(settings, say)
    run = run_fingerprint(settings, [original, *models], texts)
    with kept_beside(
        settings.output, "comparison", run, listener, overwrite=settings.overwrite
    ) as kept:
        part = kept.below("original")
        if not part.get("figures"):
            warm_up(original, settings.original)
        decoder, figures = measure_subject(original, settings.original.engine, say, part)
        comparing = _Comparing(settings, decoder, texts, kept)
        compared = []
        for name, model in zip(short_names(settings.paths), models, strict=True):
            listener(Note(f"{name}: {len(compared) + 1} of {len(models)}"))
            compared.append(comparing.model(name, model, say))
            _free(decoder.device)
        report = CompareReport(
            original=figures,
            models=tuple(compared),
            device=device_name(decoder.device),
            threads=torch.get_num_threads(),
            seconds=kept.seconds + time.perf_counter() - begun,
            versions=versions(),
            notes=tuple(notes),
            output=str(settings.output),
        )
        save(report, compare_page(report), settings.output)
    return report


def plan_comparison(settings: Comparison, listener: Listener = ignore) -> ValidationPlan:
    """What `compare` would do, checked as it checks it; reads no weights, writes nothing."""
    notes, say = noting(listener)
    original, models, texts = _checked(settings, say)
    return plan_of(settings.original.engine, models, original, texts, notes, caches=False)


def _checked(settings: Comparison, say: Listener) -> tuple[Subject, list[Subject], list[Text]]:
    """The original, the models, and the texts."""
    check_output(settings.output)
    choose_dtype(settings.dtype, "float32", choose_device(settings.device))
    original = open_subject(settings.against, settings.original)
    models = [open_subject(path, settings.validation(path)) for path in settings.paths]
    for model in models:
        check_same_vocabulary(model, original)
    return original, models, read_texts(settings.original, [original, *models], say)


@dataclass(frozen=True, slots=True)
class _Comparing:
    """The original that models are compared with, on which texts, and what was measured already."""

    settings: Comparison
    original: Decoder
    texts: list[Text]
    kept: Kept

    def model(self, name: str, model: Subject, say: Listener) -> ComparedModel:
        """One model; it is let go when this returns. One that was finished is not loaded again."""
        kept = self.kept.below(f"model {name}")
        finished = kept.get("finished")
        if finished:
            for words in finished["notes"]:
                say(Note(words))
            return compared_from(finished["model"])
        notes, say = noting(say)
        engine = self.settings.validation(model.path).engine
        decoder, figures = measure_subject(model, engine, say, kept)
        scores, peak = score_texts(decoder, self.texts, self.original, say, kept)
        compared = ComparedModel(name, figures, scores, peak)
        kept.put("finished", {"model": plain(compared), "notes": notes})
        return compared


def _free(device: torch.device) -> None:
    """Give back what the last model held, so that the next finds it free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
