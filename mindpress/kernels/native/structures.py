"""What the functions of the library are given, as ctypes: the structures of the .hpp files."""

from ctypes import Structure, c_float, c_int64, c_void_p


class W4Weight(Structure):
    """struct W4Weight of w4_weight.hpp."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("group", c_int64),
    )


class W8Weight(Structure):
    """struct W8Weight of w8_weight.hpp."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
    )


class Pages(Structure):
    """struct CachePages of cache_pages.hpp."""

    _fields_ = (
        ("data", c_void_p),
        ("scale", c_void_p),
        ("low", c_void_p),
        ("pages", c_int64),
        ("heads", c_int64),
        ("tokens", c_int64),
        ("channels", c_int64),
        ("kind", c_int64),
        ("fixed", c_int64),
    )


class Attention(Structure):
    """struct Attention of attention.hpp."""

    _fields_ = (
        ("query", c_void_p),
        ("mixed", c_void_p),
        ("starts", c_void_p),
        ("lengths", c_void_p),
        ("table", c_void_p),
        ("rows", c_int64),
        ("heads", c_int64),
        ("sequences", c_int64),
        ("width", c_int64),
        ("window", c_int64),
        ("scale", c_float),
        ("cap", c_float),
    )


class StepLinear(Structure):
    """struct StepLinear of step.hpp."""

    _fields_ = (("weight", W4Weight), ("bias", c_void_p), ("exact", c_int64))


class StepLayer(Structure):
    """struct StepLayer of step.hpp."""

    _fields_ = (
        ("query_key_value", StepLinear),
        ("attention_output", StepLinear),
        ("gate_up", StepLinear),
        ("down", StepLinear),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("head_norm", c_void_p),
        ("attention_output_norm", c_void_p),
        ("mlp_output_norm", c_void_p),
        ("keys", Pages),
        ("values", Pages),
        ("window", c_int64),
    )


class StepShape(Structure):
    """struct StepShape of step.hpp."""

    _fields_ = (
        ("layers", c_int64),
        ("hidden", c_int64),
        ("inner", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("channels", c_int64),
        ("rotary", c_int64),
        ("activation", c_int64),
        ("eps", c_float),
        ("query_scale", c_float),
        ("cap", c_float),
    )


class StepRows(Structure):
    """struct StepRows of step.hpp."""

    _fields_ = (
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("slots", c_void_p),
        ("starts", c_void_p),
        ("lengths", c_void_p),
        ("table", c_void_p),
        ("rows", c_int64),
        ("sequences", c_int64),
        ("width", c_int64),
    )
