"""What `quant_policy` in the config of a workspace means to each LMDeploy release.

Up to 0.3 its value 4 was an int8 cache with the scales of `past_kv_scale` files. From 0.4 on 8 is
int8 and 4 is int4, both scaled per token and head while the engine runs, without files. config.yaml
(from 0.6) has no such key: the engine is told when it starts.
Source: LMDeploy v0.3.0 and v0.4.0, src/turbomind/models/llama/llama_utils.h.
"""

import re

from mindpress.errors import InputError

LINE = re.compile(rb"^(quant_policy[ \t]*[=:][ \t]*)[^\r\n]*", re.IGNORECASE | re.MULTILINE)
OFFLINE = ("0.0", "0.1", "0.2", "0.3")
UNTOLD = ("0.6", "0.7")
BITS_OFFLINE = {4: 8}
BITS_ONLINE = {4: 4, 8: 8}


def reads_scale_files(release: str) -> bool:
    """Whether engines of this release take calibrated scales from `past_kv_scale` files."""
    return release.startswith(OFFLINE)


def has_policy(release: str) -> bool:
    """Whether the config of this release says how the cache is kept."""
    return not release.startswith(UNTOLD)


def policy_bits(release: str) -> dict[int, int]:
    """The values of `quant_policy`, but 0, and the bits of the cache that each asks for."""
    if not has_policy(release):
        return {}
    return BITS_OFFLINE if reads_scale_files(release) else BITS_ONLINE


def policy_of(release: str, bits: int) -> int | None:
    """The `quant_policy` of a cache of `bits` bits; None where the release has none for it."""
    return next((p for p, meant in policy_bits(release).items() if meant == bits), None)


def with_policy(text: bytes, policy: int) -> bytes:
    """A config.ini with another `quant_policy`; every other byte stays. InputError without one."""
    lines = len(LINE.findall(text))
    if lines != 1:
        raise InputError(
            f"{lines} lines say `quant_policy`, expected one", hint="convert the model again"
        )
    return LINE.sub(rb"\g<1>%d" % policy, text)
