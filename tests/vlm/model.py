#!/usr/bin/env python3
"""A tiny vision-language model of random weights, for llama.cpp's server: its answers are chance, their form is not.

    python3 tests/vlm/model.py VOCABULARY.gguf FOLDER

writes FOLDER/model.gguf (architecture llama: 64 wide, 2 blocks) with the vocabulary's tokens, and FOLDER/mmproj.gguf
(architecture clip: 56 x 56 pixels, 2 blocks), which puts pictures among them. GGUF version 3 is written by hand, so that
Python needs nothing beside itself.
"""

import array
import pathlib
import random
import struct
import sys

U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
# Bytes of a value of each fixed size.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
ALIGNMENT = 32
WIDE, BLOCKS, HEADS, INNER = 64, 2, 4, 128
EYE, EYE_BLOCKS, EYE_HEADS, EYE_INNER, SIDE, PATCH = 32, 2, 4, 64, 56, 14


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def u32(value):
    return struct.pack("<II", U32, value)


def f32(value):
    return struct.pack("<If", F32, value)


def string(value):
    return struct.pack("<I", STRING) + text(value)


def boolean(value):
    return struct.pack("<I?", BOOL, value)


def floats(values):
    return struct.pack(f"<IIQ{len(values)}f", ARRAY, F32, len(values), *values)


class Vocabulary:
    """The `tokenizer.*` fields of a GGUF file, as they are."""

    def __init__(self, path):
        self.data, self.at = pathlib.Path(path).read_bytes(), 0
        magic, version, _, fields = self.take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            sys.exit(f"{path} is not a GGUF file of version 2 or 3")
        self.fields, self.tokens = {}, 0
        for _ in range(fields):
            key = self.text()
            start = self.at
            (kind,) = self.take("<I")
            count = self.skip(kind)
            if key.startswith("tokenizer."):
                self.fields[key] = self.data[start : self.at]
            if key == "tokenizer.ggml.tokens":
                self.tokens = count
        if not self.tokens:
            sys.exit(f"{path} holds no tokens")

    def take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def text(self):
        (length,) = self.take("<Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def skip(self, kind):
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            inner, count = self.take("<IQ")
            if inner in SIZES:
                self.at += SIZES[inner] * count
            else:
                for _ in range(count):
                    self.skip(inner)
            return count
        else:
            self.at += SIZES[kind]
        return 1


def write(path, fields, tensors):
    """`tensors` are names with their shape, innermost side first, and their values."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields))
    head += b"".join(text(key) + value for key, value in fields.items())
    offset = 0
    for name, shape, values in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        offset += padded(len(values) * 4)
    with open(path, "wb") as file:
        file.write(head.ljust(padded(len(head)), b"\0"))
        for _, _, values in tensors:
            data = values.tobytes()
            file.write(data.ljust(padded(len(data)), b"\0"))


def padded(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


class Weights:
    def __init__(self, seed):
        self.chance, self.tensors = random.Random(seed), []

    def add(self, name, *shape):
        count = 1
        for side in shape:
            count *= side
        scale = shape[0] ** -0.5
        # Sixteen random bits a weight, from -scale to scale.
        bits = array.array("H", self.chance.randbytes(2 * count))
        values = array.array("f", (scale * (own / 32767.5 - 1) for own in bits))
        self.tensors.append((name, shape, values))

    def same(self, name, value, side):
        self.tensors.append((name, (side,), array.array("f", [value]) * side))


def language(vocabulary):
    own = Weights(1)
    own.add("token_embd.weight", WIDE, vocabulary.tokens)
    own.same("output_norm.weight", 1.0, WIDE)
    own.add("output.weight", WIDE, vocabulary.tokens)
    for block in range(BLOCKS):
        for name in ("attn_norm", "ffn_norm"):
            own.same(f"blk.{block}.{name}.weight", 1.0, WIDE)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            own.add(f"blk.{block}.{name}.weight", WIDE, WIDE)
        own.add(f"blk.{block}.ffn_gate.weight", WIDE, INNER)
        own.add(f"blk.{block}.ffn_up.weight", WIDE, INNER)
        own.add(f"blk.{block}.ffn_down.weight", INNER, WIDE)
    fields = {
        "general.architecture": string("llama"),
        "general.name": string("tiny-random"),
        "llama.context_length": u32(4096),
        "llama.embedding_length": u32(WIDE),
        "llama.block_count": u32(BLOCKS),
        "llama.feed_forward_length": u32(INNER),
        "llama.rope.dimension_count": u32(WIDE // HEADS),
        "llama.attention.head_count": u32(HEADS),
        "llama.attention.head_count_kv": u32(HEADS),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "llama.vocab_size": u32(vocabulary.tokens),
    }
    return fields | vocabulary.fields, own.tensors


def eye():
    own = Weights(2)
    own.add("v.class_embd", EYE)
    own.add("v.patch_embd.weight", PATCH, PATCH, 3, EYE)
    own.add("v.position_embd.weight", EYE, (SIDE // PATCH) ** 2 + 1)

    def norm(name):
        own.same(f"{name}.weight", 1.0, EYE)
        own.same(f"{name}.bias", 0.0, EYE)

    def linear(name, into, out):
        own.add(f"{name}.weight", into, out)
        own.same(f"{name}.bias", 0.0, out)

    norm("v.pre_ln")
    for block in range(EYE_BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"v.blk.{block}.{name}", EYE, EYE)
        linear(f"v.blk.{block}.ffn_up", EYE, EYE_INNER)
        linear(f"v.blk.{block}.ffn_down", EYE_INNER, EYE)
        norm(f"v.blk.{block}.ln1")
        norm(f"v.blk.{block}.ln2")
    linear("mm.0", EYE, WIDE)
    linear("mm.2", WIDE, WIDE)
    fields = {
        "general.architecture": string("clip"),
        "general.name": string("tiny-random-eye"),
        "clip.has_vision_encoder": boolean(True),
        "clip.projector_type": string("mlp"),
        "clip.use_gelu": boolean(True),
        "clip.vision.image_size": u32(SIDE),
        "clip.vision.patch_size": u32(PATCH),
        "clip.vision.embedding_length": u32(EYE),
        "clip.vision.feed_forward_length": u32(EYE_INNER),
        "clip.vision.block_count": u32(EYE_BLOCKS),
        "clip.vision.projection_dim": u32(WIDE),
        "clip.vision.attention.head_count": u32(EYE_HEADS),
        "clip.vision.attention.layer_norm_epsilon": f32(1e-5),
        "clip.vision.image_mean": floats([0.5, 0.5, 0.5]),
        "clip.vision.image_std": floats([0.5, 0.5, 0.5]),
    }
    return fields, own.tensors


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[2])
    write(folder / "model.gguf", *language(Vocabulary(sys.argv[1])))
    write(folder / "mmproj.gguf", *eye())


if __name__ == "__main__":
    main()
