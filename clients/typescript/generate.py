"""The types of the TypeScript client, made from the protos: `python clients/typescript/generate.py`, in `make proto`.

They describe protobuf JSON, which is what the gateway speaks: names in camel case, 64-bit integers as text, enums by
their names, and every field optional, because what is empty is left out. Comments of the protos become documentation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2

ROOT: Final = Path(__file__).parents[2]
TARGET: Final = Path(__file__).parent / "src" / "types.ts"
_HEAD: Final = """// Generated from proto/ by generate.py; do not edit.
// Protobuf JSON: 64-bit integers are text, what is empty is left out.

/** What JSON can hold. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
"""
_WELL_KNOWN: Final = {
    ".google.protobuf.Timestamp": "string",
    ".google.protobuf.Duration": "string",
    ".google.protobuf.Struct": "{ [key: string]: Json }",
    ".google.protobuf.Value": "Json",
}
_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_TEXT: Final = {
    _FIELD.TYPE_STRING,
    _FIELD.TYPE_BYTES,
    _FIELD.TYPE_INT64,
    _FIELD.TYPE_UINT64,
    _FIELD.TYPE_SINT64,
    _FIELD.TYPE_FIXED64,
    _FIELD.TYPE_SFIXED64,
}
_MESSAGE_TYPE, _ENUM_TYPE, _OF_FIELD = 4, 5, 2
"""Numbers of the fields that a path in SourceCodeInfo goes through."""


def types() -> str:
    """The text of src/types.ts. Needs `buf`, which keeps the comments of the protos."""
    beside = Path(sys.executable).with_name("buf")
    buf = str(beside) if beside.exists() else shutil.which("buf")
    if buf is None:
        raise FileNotFoundError("buf is not on PATH; `make install` installs it")
    command = [buf, "build", str(ROOT), "--as-file-descriptor-set", "-o", "-#format=binpb"]
    built = subprocess.run(command, check=True, capture_output=True, timeout=60)
    files = descriptor_pb2.FileDescriptorSet.FromString(built.stdout).file
    ours = sorted((each for each in files if each.package.endswith(".v1")), key=lambda each: each.name)
    seen: dict[str, str] = {}
    pieces = [_HEAD]
    for file in ours:
        for name, piece in _of_file(file):
            if seen.setdefault(name, file.name) != file.name:
                raise ValueError(f"{name!r} is a message of {seen[name]!r} and of {file.name!r}")
            pieces.append(piece)
    return "\n".join(pieces)


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    comments = {tuple(each.path): each.leading_comments for each in file.source_code_info.location}
    for place, enum in enumerate(file.enum_type):
        yield enum.name, _enum(enum, comments, (_ENUM_TYPE, place))
    for place, message in enumerate(file.message_type):
        yield message.name, _message(message, comments, (_MESSAGE_TYPE, place))


def _enum(enum: descriptor_pb2.EnumDescriptorProto, comments: Mapping[Any, str], path: tuple[int, ...]) -> str:
    lines = [*_documentation(comments.get(path, ""), ""), f"export type {enum.name} ="]
    for place, value in enumerate(enum.value):
        lines += _documentation(comments.get((*path, _OF_FIELD, place), ""), "  ")
        lines.append(f'  | "{value.name}"')
    return "\n".join(lines) + ";\n"


def _message(message: descriptor_pb2.DescriptorProto, comments: Mapping[Any, str], path: tuple[int, ...]) -> str:
    maps = {each.name: each for each in message.nested_type if each.options.map_entry}
    if len(maps) != len(message.nested_type) or message.enum_type:
        raise ValueError(f"{message.name!r} holds types of its own; put them beside it")
    lines = [*_documentation(comments.get(path, ""), ""), f"export interface {message.name} {{"]
    for place, field in enumerate(message.field):
        lines += _documentation(comments.get((*path, _OF_FIELD, place), ""), "  ")
        lines.append(f"  {field.json_name}?: {_type(field, maps)};")
    return "\n".join([*lines, "}"]) + "\n"


def _type(field: descriptor_pb2.FieldDescriptorProto, maps: Mapping[str, descriptor_pb2.DescriptorProto]) -> str:
    name = field.type_name.rpartition(".")[2]
    if name in maps:
        return f"{{ [key: string]: {_one(maps[name].field[1])} }}"
    one = _one(field)
    return f"{one}[]" if field.label == _FIELD.LABEL_REPEATED else one


def _one(field: descriptor_pb2.FieldDescriptorProto) -> str:
    if field.type in (_FIELD.TYPE_MESSAGE, _FIELD.TYPE_ENUM):
        return _WELL_KNOWN.get(field.type_name) or field.type_name.rpartition(".")[2]
    if field.type == _FIELD.TYPE_BOOL:
        return "boolean"
    return "string" if field.type in _TEXT else "number"


def _documentation(comment: str, indent: str) -> list[str]:
    lines = [line.strip() for line in comment.strip().replace("*/", "* /").splitlines()]
    if not lines:
        return []
    if len(lines) == 1:
        return [f"{indent}/** {lines[0]} */"]
    return [f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in lines), f"{indent} */"]


if __name__ == "__main__":
    TARGET.write_text(types())
