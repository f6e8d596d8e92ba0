"""How long a convolution pass should take on a Hopper GPU, from its plan, its bytes and its FLOPs, before it has run.

A block of these kernels has a thread that loads, and warps that multiply and store (docs/kernels.md). What a pass may
wait for overlaps: memory, the way from the L2 cache to shared memory, and of the busiest multiprocessor the tensor
cores and shared memory. There the epilogues between tiles come on top, and everywhere the launch's start and end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from resnet_cuda import _host
from resnet_cuda.bench.workload import Workload
from resnet_cuda.explain import H200 as _H200
from resnet_cuda.testing.problems import ConvProblem

MODELLED = "_sm90_"  # in the name of a kernel that the model is about


class Figure(NamedTuple):
    """A number of the model, and where it comes from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Machine:
    """A Hopper GPU. Rates are of the whole device unless their unit names a multiprocessor (SM)."""

    name: str
    memory: Figure
    product: Figure = Figure(
        _H200.flops[torch.bfloat16], "FLOP/s", "measured on an H200: bfloat16, random data"
    )
    multiprocessors: Figure = Figure(132, "SM", "datasheet, SXM")
    clock: Figure = Figure(1.755e9, "Hz", "assumed under load")
    tensor: Figure = Figure(4096, "FLOP/clk/SM", "datasheet: 989.4 TFLOP/s of 132 SMs at 1.83 GHz")
    shared: Figure = Figure(128, "B/clk/SM", "programming guide: 32 banks of 4 bytes")
    lanes: Figure = Figure(128, "instructions/clk/SM", "datasheet: 4 schedulers, one warp each")
    l2: Figure = Figure(5.5e12, "B/s", "assumed, L2 to shared memory of all SMs; no probe yet")
    l2_port: Figure = Figure(64, "B/clk/SM", "assumed, L2 to shared memory of one SM")
    epilogue_instructions: Figure = Figure(
        16,
        "instructions",
        "machine code, of paths that are taken: with statistics 504 for 32, in 16 bits; assumed of TF32",
    )
    epilogue_wait: Figure = Figure(
        500, "clk", "assumed, for 64 x 64 elements: two or three barriers"
    )
    # Static counts, with branches that are not taken: too high rather than too low.
    prologue_instructions: Figure = Figure(
        8.0, "instructions", "machine code: normalised in shared memory, 320 for 40 elements"
    )
    fragment_instructions: Figure = Figure(
        7.5, "instructions", "machine code: normalised in registers, 240 for 32 elements"
    )
    start_and_end: Figure = Figure(3e-6, "s", "assumed: launch, first loads, last stores")

    def figures(self) -> Iterable[tuple[str, Figure]]:
        return ((name, v) for name, v in vars(self).items() if isinstance(v, Figure))

    def seconds(self, clocks: float) -> float:
        return clocks / self.clock.value


H200 = Machine("H200", Figure(_H200.bandwidth, "B/s", "measured on an H200: a copy"))
H100 = Machine(
    "H100", Figure(3.0e12, "B/s", "assumed: 90% of the datasheet's 3.35 TB/s, SXM, HBM3")
)
MACHINES = {machine.name: machine for machine in (H200, H100)}


# Of a slice of the depth: 16-bit elements, and bytes of a row or column. TF32 has half as many, and half the rate.
_DEPTH, _LINE = 64, 128
_WARPGROUPS, _WARPGROUP_ROWS, _STAGED_COLUMNS = 2, 64, 64
_ACCUMULATOR = 4  # bytes
# Kernels with halos: a square of 8 x 8 pixels under one of three tap columns sees 10 x 8.
_HALO, _BOX_ROWS, _TAP_COLUMNS = "_halo", 80, 3
_OPS = {"conv_dgrad": "dgrad", "conv_wgrad": "wgrad"}  # the other passes are fprops
_ON_LOAD = " on load"


@dataclass(frozen=True)
class Gemms:
    """What a launch computes: one GEMM for each entry of `slices`, of so many tiles of rows x columns, whose depth has
    that many slices.

    blocks: that share a multiprocessor. pair: blocks that load columns for each other, with tiles one below the other.
    changed: rows or columns of a slice that are changed on load, 0 where none are; in registers or in place. teams: of
    a multiprocessor's warpgroups, each of which stores while the others multiply. shared_rows: those that a tile loads
    for all slices together, None where every slice has its own; resident: bytes that a block loads once for all of its
    tiles. depth: elements of a slice.
    """

    rows: int
    columns: int
    tiles: int
    slices: tuple[int, ...]
    blocks: int = 1
    pair: int = 1
    changed: float = 0
    in_registers: bool = False
    warpgroups: int = _WARPGROUPS
    teams: int = 1
    shared_rows: int | None = None
    resident: int = 0
    depth: int = _DEPTH

    @property
    def all_tiles(self) -> int:
        return self.tiles * len(self.slices)

    @property
    def all_slices(self) -> int:
        return self.tiles * sum(self.slices)

    @property
    def loaded(self) -> float:
        """Rows and columns that TMA brings to a block for a slice."""
        if self.shared_rows is None:
            return self.rows + self.columns
        return self.shared_rows / self.slices[0]

    @property
    def slice_bytes(self) -> float:
        """Of the boxes that a block loads for a slice."""
        of_others = self.columns - self.columns // self.pair
        return (self.loaded - of_others) * _LINE

    def clocks_of_tensor_cores(self, machine: Machine) -> float:
        """For a slice."""
        return 2 * self.rows * self.columns * _DEPTH / machine.tensor.value

    def clocks_of_shared_memory(self, machine: Machine) -> float:
        """The same: TMA writes its boxes; each warpgroup reads what it multiplies, all of them the operand that they
        share; what is changed in place is read and written once more."""
        down = self.rows // _WARPGROUP_ROWS  # warpgroups one below the other
        read = self.rows * (self.warpgroups // down) + self.columns * down
        lines = self.loaded + read + (0 if self.in_registers else 2 * self.changed)
        return lines * _LINE / machine.shared.value

    def clocks_of_prologue(self, machine: Machine) -> float:
        """The same, for instructions of threads."""
        each = machine.fragment_instructions if self.in_registers else machine.prologue_instructions
        return self.changed * self.depth * each.value / machine.lanes.value

    @property
    def team_elements(self) -> int:
        """Of a tile, those that a team has."""
        return self.rows * self.columns * self.blocks // self.teams

    def clocks_of_storing(self, machine: Machine) -> tuple[float, float]:
        """For a team's part of a tile, of shared memory and of instructions: its rows go through shared memory as
        float32, in and out. (Those whose statistics are taken go as 16 bits, in, out, and out by TMA: fewer bytes.)"""
        elements = self.team_elements
        instructions = elements * machine.epilogue_instructions.value
        return (
            elements * _ACCUMULATOR * 2 / machine.shared.value,
            instructions / machine.lanes.value,
        )

    def clocks_of_epilogue(self, machine: Machine) -> float:
        """The same, with its waits."""
        warpgroups = self.warpgroups * self.blocks // self.teams
        parts = self.team_elements / (warpgroups * _WARPGROUP_ROWS * _STAGED_COLUMNS)
        return max(self.clocks_of_storing(machine)) + parts * machine.epilogue_wait.value

    def busiest(self, machine: Machine) -> tuple[int, int]:
        """(tiles, slices) of the block that has most to do: block b takes tiles b, b + blocks, ..., and the blocks of a
        pair as many tiles one below the other."""
        tiles = self.tiles // self.pair
        at_once = int(machine.multiprocessors.value) * self.blocks // self.pair
        blocks = min(tiles * len(self.slices), at_once)

        def counts(block: int, grid: int) -> int:
            first, last = grid * tiles, (grid + 1) * tiles
            return _stepped(last, block, blocks) - _stepped(first, block, blocks)

        return max(
            (
                (sum(mine), sum(n * slices for n, slices in zip(mine, self.slices, strict=True)))
                for block in range(blocks)
                for mine in [[counts(block, grid) for grid in range(len(self.slices))]]
            ),
            key=lambda found: found[1],
        )


def _stepped(limit: int, first: int, step: int) -> int:
    """How many of first, first + step, ... are below the limit."""
    return max(0, _whole(limit - first, step))


def _whole(count: int, step: int) -> int:
    return -(-count // step)


@dataclass(frozen=True)
class Prediction:
    """Microseconds. us: of the pass. The rest: what each rate alone would take, `between` what the busiest
    multiprocessor does between tiles, `added` what overlaps with nothing."""

    us: float
    memory: float
    l2: float
    tensor: float
    shared: float
    between: float
    added: float
    tiles: int  # of the busiest block
    evenness: float  # slices of all blocks over those of as many busiest ones
    limit: str  # what it waits for most


def of_workload(
    workload: Workload, conv: ConvProblem, plan: dict[str, Any], machine: Machine
) -> Prediction | None:
    """None of kernels that the model is not about."""
    if plan["error"] is not None or MODELLED not in plan["kernel"]:
        return None
    gemms = gemms_of(workload, conv, plan)
    sums = 0
    if op_of(workload) == "wgrad":  # its parts in float32, for the ordered sum behind it
        weight = conv.K * (conv.C // conv.groups) * conv.R * conv.S
        sums = plan["splits"] * weight * _ACCUMULATOR
    # TF32's products take twice as long.
    return predict(gemms, workload.flops * _DEPTH // gemms.depth, workload.bytes, sums, machine)


def predict(gemms: Gemms, flops: int, size: int, sums: int, machine: Machine) -> Prediction:
    """size: bytes that have to move through memory. sums: bytes of parts that a second launch adds up; 0: there is
    none."""
    tiles, slices = gemms.busiest(machine)
    # Blocks that share a multiprocessor share its units.
    share = gemms.blocks
    tensor = machine.seconds(share * slices * gemms.clocks_of_tensor_cores(machine))
    tensor = max(tensor, flops / machine.product.value)
    shared = machine.seconds(share * slices * gemms.clocks_of_shared_memory(machine))
    prologue = machine.seconds(share * slices * gemms.clocks_of_prologue(machine))
    between = machine.seconds(tiles * gemms.clocks_of_epilogue(machine))
    multiplied = max(tensor, shared, prologue)
    teams = gemms.teams
    if teams == 1:
        busy = multiplied + between
    else:  # one team's epilogue overlaps with the others' products, by the same units
        of_shared, of_lanes = (
            machine.seconds(teams * tiles * clocks) for clocks in gemms.clocks_of_storing(machine)
        )
        busy = max(
            multiplied, multiplied / teams + between, shared + of_shared, prologue + of_lanes
        )
    blocks = min(gemms.all_tiles, int(machine.multiprocessors.value) * share)
    l2 = max(
        (gemms.all_slices * gemms.slice_bytes + blocks * gemms.resident) / machine.l2.value,
        machine.seconds(
            share * (slices * gemms.slice_bytes + gemms.resident) / machine.l2_port.value
        ),
    )
    memory = (size + sums) / machine.memory.value
    added = machine.start_and_end.value
    if sums:
        added += sums / machine.memory.value + machine.start_and_end.value
    units = {"tensor cores": tensor, "shared memory": shared, "prologue": prologue}
    busiest = max(units, key=lambda name: units[name])
    if busy > multiplied and between > multiplied / teams:
        busiest = "epilogues"
    waits = {"memory": memory, "L2": l2, busiest: busy}
    limit = max(waits, key=lambda name: waits[name])
    return Prediction(
        us=1e6 * (waits[limit] + added),
        memory=1e6 * memory,
        l2=1e6 * l2,
        tensor=1e6 * tensor,
        shared=1e6 * shared,
        between=1e6 * between,
        added=1e6 * added,
        tiles=tiles,
        evenness=gemms.all_slices
        / (slices * min(gemms.all_tiles, int(machine.multiprocessors.value) * gemms.blocks)),
        limit=limit,
    )


def gemms_of(workload: Workload, conv: ConvProblem, plan: dict[str, Any]) -> Gemms:
    """The launch of a pass with such a plan."""
    rows, columns, depth = plan["tile"]
    tiles, groups_and_splits, classes = plan["grid"]
    on_load = workload.name.endswith(_ON_LOAD)
    op = op_of(workload)
    slices: tuple[int, ...]
    if op == "wgrad":
        pixels = workload.images * conv.P * conv.Q
        slices = (_whole(_whole(pixels, plan["splits"]), depth),)
    elif op == "dgrad":
        filters = _whole(conv.K // conv.groups, depth)
        slices = tuple(filters * taps for taps in _taps_of_classes(conv, classes))
    else:
        slices = (conv.R * conv.S * _whole(conv.C // conv.groups, depth),)
    # Sm90NarrowTwinTile: no pass that is predicted takes dgrad's sums
    share_one = op != "wgrad" and columns == 64 and not on_load
    pair = 2 if op != "wgrad" and columns > 64 else 1
    column_tiles = _whole((conv.K if op == "fprop" else conv.C) // conv.groups, columns)
    if pair > 1:  # the last pair may have rows for one of its blocks only
        tiles = _whole(tiles // column_tiles, pair) * pair * column_tiles
    if plan["kernel"].endswith(_HALO):
        warpgroups = rows // _WARPGROUP_ROWS
        boxes = warpgroups * _BOX_ROWS * _TAP_COLUMNS
        return Gemms(
            rows,
            columns,
            tiles,
            slices,
            changed=boxes / slices[0] if on_load else 0,
            warpgroups=warpgroups,
            teams=warpgroups,
            shared_rows=boxes,
            resident=slices[0] * columns * _LINE,
        )
    return Gemms(
        rows,
        columns,
        tiles * groups_and_splits,
        slices,
        blocks=2 if share_one else 1,
        pair=pair,
        changed=0 if not on_load else columns if op == "wgrad" else rows,
        in_registers=op != "wgrad",
        teams=2 if share_one else 1,
        depth=depth,
    )


def op_of(workload: Workload) -> str:
    return _OPS.get(workload.pass_name, "fprop")


def _taps_of_classes(conv: ConvProblem, classes: int) -> list[int]:
    """Of dgrad's classes of pixels, which see the same taps."""
    if classes == 1:
        return [conv.R * conv.S]

    def along(taps: int, residue: int) -> int:
        meets = ((residue + conv.padding - t * conv.dilation) % conv.stride for t in range(taps))
        return sum(offset == 0 for offset in meets)

    return [
        along(conv.R, h) * along(conv.S, w)
        for h in range(min(conv.stride, conv.H))
        for w in range(min(conv.stride, conv.W))
    ]


def plan_of(workload: Workload, conv: ConvProblem, tf32: bool = False) -> dict[str, Any]:
    """What the launcher of the workload plans; tf32: where torch's switch allows it."""
    return _host.conv_plan(
        op_of(workload),
        str(workload.dtype).removeprefix("torch."),
        (workload.images, conv.C, conv.H, conv.W),
        (conv.K, conv.C // conv.groups, conv.R, conv.S),
        stride=(conv.stride, conv.stride),
        padding=(conv.padding, conv.padding),
        dilation=(conv.dilation, conv.dilation),
        groups=conv.groups,
        max_pool=workload.pass_name == "conv_max_pool",
        normalises=workload.name.endswith(_ON_LOAD),
        allow_tf32=tf32,
    )
