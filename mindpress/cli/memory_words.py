"""What a model in memory takes, for people."""

from typing import TYPE_CHECKING

from mindpress.memory import resident_bytes
from mindpress.report.numbers import size

if TYPE_CHECKING:
    from mindpress.engine.runtime_plan import RuntimePlan


def at_most(nbytes: int) -> str:
    """A bound on memory, and what this process takes, which has loaded what the work needs."""
    return f"at most {size(nbytes)} above the bare process ({size(resident_bytes())})"


def runtime_pairs(plan: "RuntimePlan") -> dict[str, object]:
    """Names and figures of a plan."""
    cache = f"{plan.cache}, {size(plan.cache_bytes)} for {plan.cache_tokens:,} tokens"
    return {
        "weights": size(plan.weight_bytes),
        "cache": cache,
        "device": plan.device,
        "peak memory": at_most(plan.peak_memory_bytes),
    }
