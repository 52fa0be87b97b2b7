"""TensorFlow's two formats, without TensorFlow: the `tf.train.Example` message and the TFRecord framing.

The message is declared here, at run time, in a descriptor pool of its own: protobuf's default pool takes a
message name once per process, so declaring it there would clash with TensorFlow's own. The framing is sixteen bytes
a record.
"""

import struct
from typing import Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from data.errors import UserError

HEADER = struct.Struct("<QI")  # payload length, its masked checksum
FOOTER = struct.Struct("<I")  # the payload's masked checksum
FRAMING_BYTES = HEADER.size + FOOTER.size


class RecordError(UserError):
    """Bytes that are not the record they should be."""


def _example_class() -> Any:
    """`tf.train.Example` (tensorflow/core/example/{feature,example}.proto), declared in a pool of its own."""
    of = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def message(name: str) -> descriptor_pb2.DescriptorProto:
        return file.message_type.add(name=name)

    for name, kind in (("BytesList", of.TYPE_BYTES), ("FloatList", of.TYPE_FLOAT), ("Int64List", of.TYPE_INT64)):
        message(name).field.add(name="value", number=1, label=of.LABEL_REPEATED, type=kind)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        field = f"{name.removesuffix('List').lower()}_list"
        one = feature.field.add(name=field, number=number, label=of.LABEL_OPTIONAL, type=of.TYPE_MESSAGE, oneof_index=0)
        one.type_name = f".tensorflow.{name}"
    features = message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=of.LABEL_OPTIONAL, type=of.TYPE_STRING)
    value = entry.field.add(name="value", number=2, label=of.LABEL_OPTIONAL, type=of.TYPE_MESSAGE)
    value.type_name = ".tensorflow.Feature"
    pairs = features.field.add(name="feature", number=1, label=of.LABEL_REPEATED, type=of.TYPE_MESSAGE)
    pairs.type_name = ".tensorflow.Features.FeatureEntry"
    whole = message("Example").field.add(name="features", number=1, label=of.LABEL_OPTIONAL, type=of.TYPE_MESSAGE)
    whole.type_name = ".tensorflow.Features"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()


def masked_crc32c(content: bytes) -> int:
    """TFRecord's checksum: CRC-32C rotated right by 15 bits, plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    crc: int = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """`payload` as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, FOOTER.pack(masked_crc32c(length)), payload, FOOTER.pack(masked_crc32c(payload))))


def unframe(content: Any, offset: int, length: int) -> bytes:
    """The payload of `length` bytes whose framing starts at `offset` of `content` (bytes or a memory map), checked."""
    end = offset + FRAMING_BYTES + length
    if end > len(content):
        raise RecordError(f"the record would end at byte {end}, the file has {len(content)}")
    header = content[offset : offset + HEADER.size]
    found, crc = HEADER.unpack(header)
    if crc != masked_crc32c(header[:8]) or found != length:
        raise RecordError(f"its header is damaged: length {found}, {length} expected")
    payload: bytes = content[offset + HEADER.size : end - FOOTER.size]
    if FOOTER.unpack_from(content, end - FOOTER.size)[0] != masked_crc32c(payload):
        raise RecordError("its checksum does not match its content")
    return payload
