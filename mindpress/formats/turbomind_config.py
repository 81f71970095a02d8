"""What config.ini and config.yaml of a TurboMind workspace say, in one spelling."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from mindpress.formats.quantized import QuantSpec
from mindpress.formats.turbomind import BITS, Layout
from mindpress.formats.turbomind_policy import policy_bits
from mindpress.models.description import Biases
from mindpress.models.shape import ModelShape, Rope

WeightType = Literal["float16", "bfloat16", "int4"]


@dataclass(frozen=True, slots=True)
class RopeSettings:
    """Rotary embedding as TurboMind spells it. `kind` is empty when nothing is scaled.

    `attention_factor` is negative where the engine shall compute it.
    """

    theta: float
    kind: str = ""
    factor: float = 0.0
    original_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    attention_factor: float = -1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, slots=True)
class WorkspaceConfig:
    """Everything a workspace's config says of the model. Sizes are in channels.

    `inner` is padded so that every rank gets whole groups; `vocab` is not padded. `session_length`
    is the model's longest text in tokens, `trained_length` what its rope was made for (0 when
    unknown). `release` is the LMDeploy release whose keys the file has.
    """

    layout: Layout
    release: str
    model_name: str
    model_arch: str
    tp: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    inner: int
    vocab: int
    norm_eps: float
    attn_bias: bool
    start_id: int
    end_id: int
    session_length: int
    trained_length: int
    weight_type: WeightType
    group_size: int
    rope: RopeSettings
    quant_policy: int = 0

    @property
    def spec(self) -> QuantSpec | None:
        """How the linears are quantized; None when they are floats."""
        return QuantSpec(BITS, self.group_size) if self.weight_type == "int4" else None

    @property
    def cache_bits(self) -> int | None:
        """8 or 4 where the config asks for a cache of codes; None for one of floats."""
        return policy_bits(self.release).get(self.quant_policy)

    @property
    def dtype(self) -> str:
        """The type of everything that is not quantized."""
        return "bfloat16" if self.weight_type == "bfloat16" else "float16"

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding files."""
        return -(-self.vocab // self.tp) * self.tp

    @property
    def shape(self) -> ModelShape:
        """The model as every other source describes its own."""
        return ModelShape(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            inner=self.inner,
            vocab=self.vocab,
            max_length=self._max_length,
            norm_eps=self.norm_eps,
            rope=read_rope(self.rope, self.trained_length),
            dtype=self.dtype,
            tied=False,
            rotary_dim=self.rotary_dim,
            biases=Biases(self.attn_bias, self.attn_bias, False),
            windows=(None,) * self.layers,
            query_scale=self.head_dim**-0.5,
        )

    @property
    def _max_length(self) -> int:
        """Yarn alone reaches past the length it was trained for."""
        if self.rope.kind == "yarn" or not self.trained_length:
            return self.session_length
        return min(self.session_length, self.trained_length)


def write_rope(rope: Rope) -> RopeSettings:
    """The settings of a model's rope; those of a kind TurboMind does not know are meaningless."""
    if rope.kind == "default":
        return RopeSettings(rope.theta)
    factor = rope.get("factor", 0.0)
    attention_factor = -1.0
    if rope.kind == "yarn":
        # Peng et al. 2023, "YaRN", equation 22; LMDeploy 0.6.3 writes it out, too.
        attention_factor = rope.get("attention_factor", 0.1 * math.log(max(factor, 1.0)) + 1.0)
    return RopeSettings(
        theta=rope.theta,
        kind=rope.kind,
        factor=factor,
        original_length=int(rope.get("original_max_position_embeddings", 0.0)),
        low_freq_factor=rope.get("low_freq_factor", 1.0),
        high_freq_factor=rope.get("high_freq_factor", 1.0),
        attention_factor=attention_factor,
        beta_fast=rope.get("beta_fast", 32.0),
        beta_slow=rope.get("beta_slow", 1.0),
    )


def read_rope(settings: RopeSettings, trained_length: int) -> Rope:
    """Inverse of `write_rope`, in the words of config.json."""
    if not settings.kind:
        return Rope(settings.theta)
    parameters: dict[str, Any] = {"factor": settings.factor}
    original = settings.original_length
    if settings.kind == "llama3":
        parameters |= {
            "low_freq_factor": settings.low_freq_factor,
            "high_freq_factor": settings.high_freq_factor,
        }
    if settings.kind == "yarn":
        original = original or trained_length
        parameters |= {"beta_fast": settings.beta_fast, "beta_slow": settings.beta_slow}
        if settings.attention_factor >= 0:
            parameters["attention_factor"] = settings.attention_factor
    if original:
        parameters["original_max_position_embeddings"] = original
    return Rope(settings.theta, settings.kind, parameters)
