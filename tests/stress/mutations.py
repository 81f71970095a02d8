"""Damage to files: what a bad disk, a broken tool or an attacker makes of them, from a seed."""

import gzip
import json
from collections.abc import Callable
from random import Random
from typing import Any

Value = Any
NUMBERS: tuple[Value, ...] = (
    0, 1, 2, 3, 7, -1, -2**31, 2**31, 2**32, 2**53 + 1, 2**63, 10**18, 10**300, 10**4200, 0.5, -0.0,
    1e-320, 1e308, float("nan"), float("inf"), float("-inf"), True, False, None,
)  # fmt: skip
WORDS = (
    "", " ", "\0", "\ud800", "é", "😀", "../x", "/etc/passwd", "a" * 3000, "1", "1e9", "nan",
    "true", "null", "re:(a+)+$", "re:(.*)*x", "re:[", "float16", "bfloat16", "linear", "yarn",
    "dynamic", "llama3", "longrope", "{{ 9**9 }}", "%s%n", "__class__", "auto_map", "remote.Code",
)  # fmt: skip
KEYS = (
    "auto_map", "quantization_config", "rope_scaling", "layer_types", "sliding_window", "dtype",
    "head_dim", "tie_word_embeddings", "tokenizer_class", "tokenizer_file", "chat_template",
    "__metadata__", "dynamic", "ignore", "partial_rotary_factor", "use_sliding_window", "factor",
    "short_factor", "original_max_position_embeddings", "padding", "truncation", "normalizer",
    "eos_token_id", "bos_token", "pad_token_id", "hidden_act", "torch_dtype", "model_type",
)  # fmt: skip
LONGEST_REPEAT = 2000


def mutate_json(data: bytes, draw: Random) -> bytes:
    """A JSON text with other values, keys or nesting; now and then with damaged bytes."""
    if draw.random() < 0.15:
        return mutate_bytes(data, draw)
    value = json.loads(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        value = _changed(value, draw)
    text = json.dumps(value)
    if draw.random() < 0.03:
        text = _nested(text, draw)
    return text.encode()


def mutate_lines(data: bytes, draw: Random) -> bytes:
    """Lines of JSON objects."""
    lines = data.splitlines()
    if draw.random() < 0.3 or not lines:
        return mutate_bytes(data, draw)
    chosen = draw.randrange(len(lines))
    lines[chosen] = mutate_json(lines[chosen], draw)
    return b"\n".join(lines)


def mutate_gzip(data: bytes, draw: Random) -> bytes:
    """Damage to the stream, or to what is in it."""
    if draw.random() < 0.5:
        return mutate_bytes(data, draw)
    return gzip.compress(mutate_lines(gzip.decompress(data), draw), 1)


def mutate_settings(data: bytes, draw: Random) -> bytes:
    """`key = value` and `key: value`, with other values, twice, without, or out of order."""
    if draw.random() < 0.15:
        return mutate_bytes(data, draw)
    lines = data.decode().splitlines()
    for _ in range(draw.choice((1, 1, 2))):
        chosen = draw.randrange(len(lines))
        lines = draw.choice(SETTINGS)(lines, chosen, draw)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutate_safetensors(data: bytes, draw: Random) -> bytes:
    """The length, the header as JSON, the header as bytes, or the data."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = draw.random()
    if kind < 0.6:
        changed = mutate_json(header, draw) if kind < 0.5 else _retyped(header, draw)
        return len(changed).to_bytes(8, "little") + changed + body
    if kind < 0.8:
        return mutate_bytes(data[: 8 + length], draw) + body
    if kind < 0.9:
        wrong = draw.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**63, 2**64 - 1))
        return wrong.to_bytes(8, "little") + data[8:]
    return data[: 8 + length] + mutate_bytes(body, draw)


def _retyped(header: bytes, draw: Random) -> bytes:
    """Tensors of another type of the same width, or with the place or the name of another one."""
    entries = json.loads(header)
    one, other = (draw.choice([name for name in entries if name != "__metadata__"]) for _ in "12")
    kind = draw.randrange(4)
    if kind == 0:
        entries[one], entries[other] = entries[other], entries[one]
    elif kind == 1:
        entries[one]["data_offsets"] = entries[other]["data_offsets"]
    elif kind == 2:
        entries[one]["shape"] = entries[one]["shape"][::-1]
    else:
        entries[one]["dtype"] = draw.choice(("F16", "BF16", "I16", "F32", "I32", "U16", "F8_E4M3"))
    return json.dumps(entries).encode()


def mutate_bytes(data: bytes, draw: Random) -> bytes:
    """Flipped, lost, doubled, inserted and overwritten bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        draw.choice(BYTES)(changed, draw)
    return bytes(changed)


def mutate_template(data: bytes, draw: Random) -> bytes:
    """A chat template with pieces that try to leave the sandbox, to loop and to fail."""
    text = data.decode("utf-8", "replace")
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(len(text) + 1)
        if draw.random() < 0.3:
            text = text[:place] + text[place + draw.randrange(1, 9) :]
        else:
            text = text[:place] + draw.choice(PIECES) + text[place:]
    return text.encode("utf-8", "surrogatepass")


PIECES = (
    "{{ ''.__class__.__mro__ }}", "{{ messages.__class__ }}", "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__ }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ x.y.z }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ raise_exception('no') }}", "{{ 1/0 }}",
    "{{ 9**9**9 }}", "{{ 'a' * 10**12 }}", "{{ range(10**9) }}", "{{ messages[99].content }}",
    "{{ messages[0]['content'] + 1 }}", "{{ messages | tojson }}", "{{ strftime_now('%Q') }}",
    "{{ 'x' | center(10**11) }}", "{{ '%999999999999d' | format(1) }}", "{{ none() }}",
    "{% for m in messages %}", "{% endfor %}", "{% set ns = namespace(a=1) %}{{ ns.a }}",
    "{{ dict(a=1).pop('b') }}", "{{ ''.format(a) }}", "{{ '{0.__class__}'.format(1) }}", "{{", "%}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% generation %}x{% endgeneration %}", "{{ messages.append(1) }}", "{% break %}", "{#",
)  # fmt: skip


def _changed(value: Value, draw: Random) -> Value:
    """`value` with one place in it changed, which is drawn on the way down."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        if draw.random() < 0.2:
            return _rekeyed(value, key, draw)
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], _changed(value[place], draw), *value[place + 1 :]]
    return _replaced(value, draw)


def _rekeyed(value: dict[str, Value], key: str, draw: Random) -> dict[str, Value]:
    """A key gone, renamed, added, or with the value of another."""
    changed = dict(value)
    kind = draw.randrange(4)
    if kind == 0:
        del changed[key]
    elif kind == 1:
        changed[draw.choice((*KEYS, key.upper(), key + "x", ""))] = changed.pop(key)
    elif kind == 2:
        changed[draw.choice(KEYS)] = _fresh(draw)
    else:
        changed[key] = value[draw.choice(list(value))]
    return changed


def _replaced(value: Value, draw: Random) -> Value:
    kind = draw.random()
    if isinstance(value, list) and kind < 0.4:
        return draw.choice(
            ([], value * 2, value[::-1], value[:-1], value * LONGEST_REPEAT, [value])
        )
    if isinstance(value, int) and kind < 0.4:
        return draw.choice((value + 1, value - 1, value * 2, -value, value * 10**6, value // 2))
    if isinstance(value, str) and value and kind < 0.3:
        return draw.choice((value[:-1], value + "x", value[::-1], value.upper(), value * 50))
    if kind > 0.85:
        return draw.choice(([value], {"a": value}, str(value)[:1000], {}, []))
    return _fresh(draw)


def _fresh(draw: Random) -> Value:
    kind = draw.random()
    if kind < 0.45:
        return draw.choice(NUMBERS)
    if kind < 0.8:
        return draw.choice(WORDS)
    return draw.choice(([], {}, [1], [None], {"a": 1}, [[]], ["x"] * 5, {"type": "x"}, [1.5, "x"]))


def _nested(text: str, draw: Random) -> str:
    depth = draw.choice((50, 300, 900, 990, 2000, 100_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}")))
    deep = opening * depth + "1" + closing * depth
    return f'{text.rstrip()[:-1]}, "deep": {deep}}}' if text.rstrip()[-1:] == "}" else deep


def _flip(data: bytearray, draw: Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        if data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _overwrite(data: bytearray, draw: Random) -> None:
    if data:
        start = draw.randrange(len(data))
        size = min(draw.choice((1, 2, 4, 8, 64)), len(data) - start)
        filler = draw.choice((b"\0", b"\xff", b"\x7e", b"9", b'"', b"[", b"{", b"\n"))
        data[start : start + size] = filler * size


def _lose(data: bytearray, draw: Random) -> None:
    start = draw.randrange(len(data) + 1)
    del data[start : start + draw.choice((1, 2, 8, 100, len(data)))]


def _double(data: bytearray, draw: Random) -> None:
    start = draw.randrange(len(data) + 1)
    piece = bytes(data[start : start + draw.choice((1, 8, 100))])
    data[start:start] = piece * draw.choice((1, 2, 50))


def _insert(data: bytearray, draw: Random) -> None:
    start = draw.randrange(len(data) + 1)
    data[start:start] = draw.randbytes(draw.choice((1, 4, 32)))


BYTES: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _flip, _overwrite, _lose, _double,
                                                          _insert)  # fmt: skip


def _set(lines: list[str], chosen: int, draw: Random) -> list[str]:
    line = lines[chosen]
    sign = "=" if "=" in line else ":"
    value = str(
        draw.choice((*NUMBERS, *WORDS, "[1, 2]", "{a: 1}", "0x10", "1_0", "~", "*a", "&a 1"))
    )
    return [*lines[:chosen], f"{line.split(sign)[0]}{sign} {value[:4000]}", *lines[chosen + 1 :]]


def _numeric(lines: list[str], chosen: int, draw: Random) -> list[str]:
    """Another number, near the one that is there."""
    line = lines[chosen]
    sign = "=" if "=" in line else ":"
    key, _, value = line.partition(sign)
    near = draw.choice(
        (f"{value.strip()}0", f"-{value.strip()}", f"{value.strip()}.5", "1", "2", "64")
    )
    return [*lines[:chosen], f"{key}{sign} {near}", *lines[chosen + 1 :]]


def _drop(lines: list[str], chosen: int, _: Random) -> list[str]:
    return [*lines[:chosen], *lines[chosen + 1 :]] or [""]


def _again(lines: list[str], chosen: int, draw: Random) -> list[str]:
    return [*lines[: chosen + 1], *[lines[chosen]] * draw.choice((1, 1, 100)), *lines[chosen + 1 :]]


def _swap(lines: list[str], chosen: int, draw: Random) -> list[str]:
    other = draw.randrange(len(lines))
    swapped = list(lines)
    swapped[chosen], swapped[other] = swapped[other], swapped[chosen]
    return swapped


def _strange(lines: list[str], chosen: int, draw: Random) -> list[str]:
    line = draw.choice(
        ("- " * 900 + "x", "[" * 5000, "x: " * 50, "a: &a [1]", "<<: *a", "\t",
         "!!python/name:os.x", "[llama]", "---", "? x", " " * 3000 + "x", "[DEFAULT]",
         "2001-99-99: 1", "%(x)s = 1")
    )  # fmt: skip
    return [*lines[:chosen], line, *lines[chosen:]]


SETTINGS = (_set, _set, _set, _numeric, _numeric, _drop, _again, _swap, _strange)
