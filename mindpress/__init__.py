"""Turn a large language model into a small, fast one, and prove that it still works.

`mindpress.pipeline("path/to/model")(["Hello", "What is a token?"])` answers prompts.
"""

from typing import TYPE_CHECKING, Any

from mindpress.engine.config import EngineConfig, GenerationConfig

if TYPE_CHECKING:
    from mindpress.engine.pipeline import Pipeline, Response, pipeline

__version__ = "0.1.0"
__all__ = ["EngineConfig", "GenerationConfig", "Pipeline", "Response", "pipeline"]


def __getattr__(name: str) -> Any:
    """What loads torch is imported when it is asked for."""
    if name in __all__:
        from mindpress.engine import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module `mindpress` has no attribute `{name}`")
