"""A product with a 4-bit weight as the bytes of an ONNX model, written without the onnx package.

Source: onnx.proto (ONNX 1.16) for the field numbers, protocolbuffers.dev/encoding for the bytes,
onnxruntime docs/ContribOperators.md for MatMulNBits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

FLOAT, UINT8, INT_ATTRIBUTE = 1, 2, 2  # TensorProto.DataType, AttributeProto.AttributeType
Field = tuple[int, "int | str | bytes"]


@dataclass(frozen=True, slots=True)
class NbitsModel:
    """y = x w^T of one weight, w = (code - zero) * scale.

    `codes` [outputs, inputs / group, group / 2] and `zeros` [outputs, groups / 2, rounded up] hold
    two in a byte, the first in the low half; `scales` [outputs, groups] are float32.
    """

    outputs: int
    inputs: int
    group: int
    accuracy: int
    codes: bytes
    scales: bytes
    zeros: bytes

    def serialized(self) -> bytes:
        """The model's file. Peak memory: two copies of the weight."""
        groups = self.inputs // self.group
        node = _message(
            *((1, name) for name in ("x", "codes", "scales", "zeros")),
            (2, "y"),
            (4, "MatMulNBits"),
            *((5, attribute) for attribute in self._attributes()),
            (7, "com.microsoft"),
        )
        graph = _message(
            (1, node),
            (2, "product"),
            (5, _tensor("codes", UINT8, (self.outputs, groups, self.group // 2), self.codes)),
            (5, _tensor("scales", FLOAT, (self.outputs, groups), self.scales)),
            (5, _tensor("zeros", UINT8, (self.outputs, (groups + 1) // 2), self.zeros)),
            (11, _rows("x", self.inputs)),
            (12, _rows("y", self.outputs)),
        )
        operators = (_message((1, ""), (2, 21)), _message((1, "com.microsoft"), (2, 1)))
        return _message((1, 10), (7, graph), *((8, domain) for domain in operators))

    def _attributes(self) -> Iterator[bytes]:
        for name, value in (
            ("K", self.inputs),
            ("N", self.outputs),
            ("bits", 4),
            ("block_size", self.group),
            ("accuracy_level", self.accuracy),
        ):
            yield _message((1, name), (3, value), (20, INT_ATTRIBUTE))


def _tensor(name: str, kind: int, shape: tuple[int, ...], content: bytes) -> bytes:
    return _message(*((1, size) for size in shape), (2, kind), (8, name), (9, content))


def _rows(name: str, width: int) -> bytes:
    shape = _message((1, _message((2, "rows"))), (1, _message((1, width))))
    return _message((1, name), (2, _message((1, _message((1, FLOAT), (2, shape))))))


def _message(*fields: Field) -> bytes:
    """Each field is its number and type, then a number, or the length of bytes and the bytes."""
    parts: list[bytes] = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_varint(number << 3), _varint(value)]
        else:
            content = value.encode() if isinstance(value, str) else value
            parts += [_varint(number << 3 | 2), _varint(len(content)), content]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the highest bit set."""
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
