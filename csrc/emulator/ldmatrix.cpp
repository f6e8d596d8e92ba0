#include "emulator/ldmatrix.h"

#include <cstring>

#include "emulator/access.h"
#include "emulator/shared_pointer.h"
#include "emulator/shared_window.h"
#include "emulator/warp.h"
#include "emulator/whole_warp.h"

namespace rnc::emulator {

namespace {

constexpr uint32_t kRows = 8;  // of a matrix
constexpr uint32_t kRowBytes = 16;

// What a lane leaves for the last one.
struct Move {
  uint32_t* registers;        // [instructions][matrices]; stmatrix only reads them
  const uint32_t* addresses;  // of the rows that this lane names, by instruction
  uint32_t instructions;
  uint32_t matrices;
  bool transposed;
  const void* pc;

  bool same_instruction(const Move& other) const {
    return instructions == other.instructions && matrices == other.matrices &&
           transposed == other.transposed;
  }
};

// The moves of all lanes.
struct WarpMove {
  const Move* lanes[kWarpSize];
};

[[noreturn, gnu::cold, gnu::noinline]] void fail_moves_differ(const Warp& warp,
                                                              const Rendezvous& meeting,
                                                              const Move& own, uint32_t lane,
                                                              const Move& other) {
  const auto form = [](const Move& move) {
    return format(".x%u%s", move.matrices, move.transposed ? ".trans" : "");
  };
  fail(format("divergent collectives: lane %u of warp %u calls ", self()->lane, warp.index) +
       meeting.kind->name + form(own) + format(", lane %u ", lane) + form(other));
}

WarpMove collect(const Warp& warp, const Rendezvous& meeting) {
  check_whole_warp(warp, meeting);
  WarpMove warp_move;
  const auto& own = *static_cast<const Move*>(meeting.arguments[self()->lane]);
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const auto& other = *static_cast<const Move*>(meeting.arguments[lane]);
    if (!other.same_instruction(own)) fail_moves_differ(warp, meeting, own, lane, other);
    warp_move.lanes[lane] = &other;
  }
  return warp_move;
}

// Where a row lies in the block's shared memory; reports addresses that are illegal.
inline uint32_t row_offset(const Block& block, uint32_t address, size_t available,
                           const char* what) {
  const uint32_t offset = address - kSharedBase;
  if (__builtin_expect(offset % kRowBytes == 0 && offset + size_t{kRowBytes} <= available, 1)) {
    return offset;
  }
  return shared_offset(block, address, kRowBytes, kRowBytes, what);
}

// The rows of one matrix, which lanes 8 i to 8 i + 7 name.
struct MatrixRows {
  char* rows[kRows];
};

template <Access kKind>
MatrixRows find_rows(Warp& warp, const WarpMove& move, uint32_t instruction, uint32_t matrix) {
  const Launch& launch = *warp.block->worker->launch;
  const size_t available = launch.request.shared_bytes;
  const bool observed = launch.check_shared || launch.options.count != 0;
  MatrixRows found;
  for (uint32_t row = 0; row < kRows; ++row) {
    const uint32_t lane = kRows * matrix + row;
    const uint32_t offset = row_offset(*warp.block, move.lanes[lane]->addresses[instruction],
                                       available, kKind == Access::kRead ? "ldmatrix" : "stmatrix");
    found.rows[row] = warp.block->shared + offset;
    if (!observed) continue;
    // An access of the lane that names the row, like any other of it.
    Fiber& fiber = warp.fibers[lane];
    observe_async(&fiber, *warp.block, offset, kRowBytes, kKind, Proxy::kGeneric, epoch_of(fiber),
                  move.lanes[lane]->pc);
  }
  return found;
}

// Lane l holds elements 2 (l % 4) and the next of row l / 4.
template <Access kKind>
void move_rows(const MatrixRows& matrix, const WarpMove& move, uint32_t index) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    char* const element = matrix.rows[lane / 4] + lane % 4 * 4;
    uint32_t* const value = move.lanes[lane]->registers + index;
    if (kKind == Access::kRead) {
      std::memcpy(value, element, 4);
    } else {
      std::memcpy(element, value, 4);
    }
  }
}

// Transposed: of column l / 4.
template <Access kKind>
void move_columns(const MatrixRows& matrix, const WarpMove& move, uint32_t index) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    char* const first = matrix.rows[lane % 4 * 2] + lane / 4 * 2;
    char* const second = matrix.rows[lane % 4 * 2 + 1] + lane / 4 * 2;
    auto* const value = reinterpret_cast<char*>(move.lanes[lane]->registers + index);
    if (kKind == Access::kRead) {
      std::memcpy(value, first, 2);
      std::memcpy(value + 2, second, 2);
    } else {
      std::memcpy(first, value, 2);
      std::memcpy(second, value + 2, 2);
    }
  }
}

template <Access kKind>
void execute_move(Warp& warp, Rendezvous& meeting) {
  const WarpMove move = collect(warp, meeting);
  const Move& own = *move.lanes[0];
  for (uint32_t instruction = 0; instruction < own.instructions; ++instruction) {
    for (uint32_t matrix = 0; matrix < own.matrices; ++matrix) {
      const MatrixRows found = find_rows<kKind>(warp, move, instruction, matrix);
      const uint32_t index = instruction * own.matrices + matrix;
      if (own.transposed) {
        move_columns<kKind>(found, move, index);
      } else {
        move_rows<kKind>(found, move, index);
      }
    }
  }
}

constexpr CollectiveKind kLoad{"ldmatrix", execute_move<Access::kRead>, true};
constexpr CollectiveKind kStore{"stmatrix", execute_move<Access::kWrite>, true};

}  // namespace

void ldmatrix(uint32_t* registers, uint32_t matrices, bool transposed, const uint32_t* addresses,
              uint32_t instructions) {
  Move move{registers, addresses, instructions, matrices, transposed, __builtin_return_address(0)};
  meet(kAllLanes, kLoad, &move);
}

void stmatrix(const uint32_t* registers, uint32_t matrices, bool transposed,
              const uint32_t* addresses, uint32_t instructions) {
  Move move{const_cast<uint32_t*>(registers), addresses, instructions, matrices, transposed,
            __builtin_return_address(0)};
  meet(kAllLanes, kStore, &move);
}

}  // namespace rnc::emulator
