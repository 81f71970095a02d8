"""All descriptions, by the name a checkpoint's config.json gives."""

from difflib import get_close_matches

from mindpress.errors import UnsupportedModelError
from mindpress.models.description import Architecture
from mindpress.models.gemma import GEMMA2
from mindpress.models.internlm import INTERNLM2, INTERNLM3
from mindpress.models.llama import LLAMA, MISTRAL, PHI3, QWEN2, QWEN3

ARCHITECTURES = {
    a.hf_class: a for a in (LLAMA, MISTRAL, QWEN2, QWEN3, INTERNLM2, INTERNLM3, PHI3, GEMMA2)
}


def describe(hf_class: str) -> Architecture:
    """The description of `hf_class`, or an error that names the closest one."""
    if hf_class in ARCHITECTURES:
        return ARCHITECTURES[hf_class]
    close = get_close_matches(hf_class, ARCHITECTURES, n=1)
    known = ", ".join(sorted(ARCHITECTURES))
    hint = f"closest known: `{close[0]}`" if close else f"known: {known}"
    raise UnsupportedModelError(f"no description of architecture `{hf_class}`", hint=hint)
