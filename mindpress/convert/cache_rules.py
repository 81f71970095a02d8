"""Which cache the config of an LMDeploy release can ask for, and what its engines make of it."""

from mindpress.errors import ConfigError
from mindpress.events import Note
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.turbomind_policy import has_policy, policy_of, reads_scale_files

NEWER = "convert with --tm-version 0.5"
CALIBRATE = "add --calib and a dataset, for example --calib wikitext2"
SHARED = {
    "tensor": "one scale per layer and rank",
    "head": "one scale per head",
    "channel": "one scale per key channel, values per token and head",
    "token": "one scale per token and head",
}


def check_spec(release: str, spec: CacheSpec, head_dim: int) -> None:
    """ConfigError for a cache that no engine of `release` has, or for odd heads."""
    if has_policy(release) and policy_of(release, spec.bits) is None:
        raise ConfigError(
            f"--kv-bits {spec.bits}: LMDeploy {release} has no int{spec.bits} cache", hint=NEWER
        )
    if head_dim % 2:
        raise ConfigError(
            f"--kv-bits {spec.bits}: a quantized cache needs an even head size, the model has"
            f" {head_dim}",
            hint="leave out --kv-bits",
        )


def check_calibrated(release: str, spec: CacheSpec, *, calibrated: bool) -> None:
    """ConfigError for ranges that are missing, and for ranges that nothing would use."""
    files = reads_scale_files(release)
    if not calibrated and spec.granularity != "token":
        raise ConfigError(
            f"--granularity {spec.granularity} needs calibrated ranges", hint=CALIBRATE
        )
    if not calibrated and files:
        raise ConfigError(
            f"--kv-bits {spec.bits}: LMDeploy {release} needs calibrated scales", hint=CALIBRATE
        )
    if calibrated and spec.granularity == "token" and not files:
        raise ConfigError(
            f"--granularity token: LMDeploy {release} and mindpress scale every token themselves;"
            " nothing is to be calibrated",
            hint="use --granularity tensor, head or channel, or leave out --calib",
        )


def cache_notes(release: str, spec: CacheSpec) -> list[Note]:
    """What LMDeploy does with the workspace, and what mindpress does beyond that."""
    policy = policy_of(release, spec.bits)
    if reads_scale_files(release):
        texts = [
            f"int8 cache (`quant_policy = {policy}`): LMDeploy {release} takes one scale per layer"
            " and rank from the past_kv_scale files"
        ]
    elif has_policy(release):
        texts = [
            f"int{spec.bits} cache (`quant_policy = {policy}`): LMDeploy 0.4 to 0.5 scales every"
            " token and head itself and reads no calibrated scales"
        ]
    else:
        texts = [
            f"int{spec.bits} cache: config.yaml has no key for it; start LMDeploy with"
            f" --quant-policy {spec.bits}"
        ]
    kind = "symmetric, " if spec.symmetric else ""
    texts.append(
        f"mindpress keeps an int{spec.bits} cache of this workspace with {kind}"
        f"{SHARED[spec.granularity]}"
    )
    return [Note(text) for text in texts]
