"""What a compiled program moves between the chip and its main memory, and a TPU's kernels' schedule, from texts.

XLA's own count (`cost_analysis`) also has what stays on the chip, and a loop's body once. Here each instruction reads
its operands and writes its result, but for what lies on the chip (`S(1)` in a layout); loops count as often as they
run, if the compiler knows it. A fusion that reads a slice of an array or rows of it, or writes one in place, counts
those.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "u8": 1, "s8": 1, "pred": 1}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
NOTHING_MOVES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}


class Instruction(NamedTuple):
    """A line of a computation."""

    is_root: bool
    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str


def gigabytes_moved(program: str) -> float:
    """10⁹ bytes between main memory and chip in one run of a compiled program, by its `as_text()`."""
    computations, entry = _computations(program)
    return _moved(computations, entry) / 1e9


def operations(program: str) -> int:
    """Operations that one run launches, most of them kernels; a loop's as often as it runs, once if nobody knows."""
    return _launched(*_computations(program))


def schedule(folder: Path, name: str) -> dict[str, tuple[int, float]]:
    """Of kernels with `name` in theirs, whose schedules libtpu wrote to `folder`: cycles of one program of the grid,
    as many as it issues instructions, and the share of the matrix units in use meanwhile."""
    found = {}
    for path in sorted(folder.glob(f"*-{name}*final_hlo*utilization.txt")):
        lines = path.read_text().splitlines()
        units = lines.index("== UTILIZATION:") if "== UTILIZATION:" in lines else len(lines)
        capacity = [int(number) for number in lines[units - 1].split()] if units < len(lines) else []
        rows = [[int(number) for number in line.split()] for line in lines[units + 1 :] if line]
        if rows:
            kernel = re.sub(r"^\d+-", "", path.name).split(".")[0]
            found[kernel] = (len(rows), sum(row[0] for row in rows) / capacity[0] / len(rows))
    return found


def _computations(program: str) -> tuple[dict[str, list[Instruction]], str]:
    found: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in program.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif current and (parsed := INSTRUCTION.match(line)):
            root, name, shape, operation, rest = parsed.groups()
            operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            found[current].append(Instruction(bool(root), name, shape, operation, tuple(operands), rest))
    return found, entry


def _launched(computations: dict[str, list[Instruction]], name: str) -> int:
    return sum(
        _times(one) * _launched(computations, _body(one)) if one.operation == "while" else 1
        for one in computations[name]
        if one.operation not in NOTHING_MOVES and not one.operation.endswith("-done")
    )


def _body(loop: Instruction) -> str:
    found = re.search(r"body=%?([\w.\-]+)", loop.rest)
    assert found, loop
    return found[1]


def _times(loop: Instruction) -> int:
    found = re.search(r'trip_count":\{"n":"(\d+)"', loop.rest)
    return int(found[1]) if found else 1


def _moved(computations: dict[str, list[Instruction]], name: str) -> int:
    shapes = {one.name: one.shape for one in computations[name]}
    total = 0
    for one in computations[name]:
        if one.operation == "while":
            total += _times(one) * _moved(computations, _body(one))
        elif one.operation.endswith("-start"):
            total += _copied(one.shape)
        elif one.operation not in NOTHING_MOVES and not one.operation.endswith("-done"):
            total += _of_instruction(computations, one, shapes)
    return total


def _of_instruction(computations: dict[str, list[Instruction]], one: Instruction, shapes: dict[str, str]) -> int:
    inside = re.search(r"calls=%?([\w.\-]+)", one.rest)
    if one.operation != "fusion" or not inside:
        return _in_memory(one.shape) + sum(_in_memory(shapes.get(name, "")) for name in set(one.operands))
    fused = computations[inside[1]]
    root = next(each for each in fused if each.is_root)
    written_in_place = root.operands[0] if root.operation == "dynamic-update-slice" else ""
    inner = {each.name: each.shape for each in fused}
    total = 0 if written_in_place else _in_memory(one.shape)
    if written_in_place and _in_memory(one.shape):
        total += _size(inner[root.operands[1]])
    for operand, parameter in zip(one.operands, _parameters(fused), strict=True):
        if parameter == written_in_place or not _in_memory(shapes.get(operand, "")):
            continue
        readers = [each for each in fused if parameter in each.operands]
        if readers and all(_reads_part(each, parameter) for each in readers):
            total += sum(_size(each.shape) for each in readers)
        else:
            total += _in_memory(shapes[operand])
    return total


def _reads_part(one: Instruction, parameter: str) -> bool:
    return one.operation == "dynamic-slice" or (one.operation == "gather" and one.operands[0] == parameter)


def _parameters(fused: list[Instruction]) -> list[str]:
    numbered = {int(one.rest.split(")")[0]): one.name for one in fused if one.operation == "parameter"}
    return [numbered[number] for number in sorted(numbered)]


def _copied(shape: str) -> int:
    """Of a copy that goes on beside other work: what is copied, for each end of it that lies in main memory."""
    ends = list(_arrays(shape))[:2]
    return min(size for size, _ in ends) * sum(not on_chip for _, on_chip in ends)


def _size(shape: str) -> int:
    return sum(size for size, _ in _arrays(shape))


def _in_memory(shape: str) -> int:
    return sum(size for size, on_chip in _arrays(shape) if not on_chip)


def _arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """Bytes of each array of a shape, and whether it lies on the chip."""
    for kind, dimensions, layout in ARRAY.findall(shape):
        if kind in BYTES:
            size = BYTES[kind]
            for dimension in filter(None, dimensions.split(",")):
                size *= int(dimension)
            yield size, "S(1)" in layout
