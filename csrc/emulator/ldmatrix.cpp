#include "emulator/ldmatrix.h"

#include <cstring>

#include "emulator/access.h"
#include "emulator/shared_pointer.h"
#include "emulator/warp.h"
#include "emulator/whole_warp.h"

namespace rnc::emulator {

namespace {

constexpr uint32_t kRows = 8;  // of a matrix
constexpr uint32_t kRowBytes = 16;

// What a lane leaves for the last one.
struct Move {
  uint32_t* registers;  // stmatrix only reads them
  uint32_t matrices;
  bool transposed;
  uint32_t address;  // of the row that this lane names
  const void* pc;
};

const Move& move_of(const Rendezvous& meeting, uint32_t lane) {
  return *static_cast<const Move*>(meeting.arguments[lane]);
}

// The rows that lanes 8 i to 8 i + 7 name.
struct MatrixRows {
  char* rows[kRows];
};

MatrixRows find_rows(Warp& warp, const Rendezvous& meeting, uint32_t matrix, Access kind) {
  const Launch& launch = *warp.block->worker->launch;
  const bool observed = launch.check_shared || launch.options.count != 0;
  const char* const what = kind == Access::kRead ? "ldmatrix" : "stmatrix";
  MatrixRows found;
  for (uint32_t row = 0; row < kRows; ++row) {
    const uint32_t lane = kRows * matrix + row;
    const Move& move = move_of(meeting, lane);
    const uint32_t offset = shared_offset(*warp.block, move.address, kRowBytes, kRowBytes, what);
    found.rows[row] = warp.block->shared + offset;
    if (!observed) continue;
    // An access of the lane that names the row, like any other of it.
    Fiber& fiber = warp.fibers[lane];
    observe_async(&fiber, *warp.block, offset, kRowBytes, kind, Proxy::kGeneric, epoch_of(fiber),
                  move.pc);
  }
  return found;
}

// Lane l holds elements 2 (l % 4) and the next of row l / 4, or of column l / 4.
void load(const MatrixRows& matrix, bool transposed, uint32_t lane, uint32_t* out) {
  const uint32_t major = lane / 4, minor = lane % 4;
  if (!transposed) {
    std::memcpy(out, matrix.rows[major] + 4 * minor, 4);
    return;
  }
  uint16_t halves[2];
  std::memcpy(&halves[0], matrix.rows[2 * minor] + 2 * major, 2);
  std::memcpy(&halves[1], matrix.rows[2 * minor + 1] + 2 * major, 2);
  std::memcpy(out, halves, 4);
}

void store(const MatrixRows& matrix, bool transposed, uint32_t lane, const uint32_t* in) {
  const uint32_t major = lane / 4, minor = lane % 4;
  if (!transposed) {
    std::memcpy(matrix.rows[major] + 4 * minor, in, 4);
    return;
  }
  uint16_t halves[2];
  std::memcpy(halves, in, 4);
  std::memcpy(matrix.rows[2 * minor] + 2 * major, &halves[0], 2);
  std::memcpy(matrix.rows[2 * minor + 1] + 2 * major, &halves[1], 2);
}

template <Access kKind>
void execute_move(Warp& warp, Rendezvous& meeting) {
  const Move& own = move_of(meeting, self()->lane);
  check_whole_warp(warp, meeting);
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const Move& other = move_of(meeting, lane);
    if (other.matrices == own.matrices && other.transposed == own.transposed) continue;
    fail(format("divergent collectives: lane %u of warp %u calls %s.x%u%s, lane %u .x%u%s",
                self()->lane, warp.index, meeting.kind->name, own.matrices,
                own.transposed ? ".trans" : "", lane, other.matrices,
                other.transposed ? ".trans" : ""));
  }
  for (uint32_t matrix = 0; matrix < own.matrices; ++matrix) {
    const MatrixRows found = find_rows(warp, meeting, matrix, kKind);
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
      uint32_t* const value = move_of(meeting, lane).registers + matrix;
      if (kKind == Access::kRead) {
        load(found, own.transposed, lane, value);
      } else {
        store(found, own.transposed, lane, value);
      }
    }
  }
}

constexpr CollectiveKind kLoad{"ldmatrix", execute_move<Access::kRead>, true};
constexpr CollectiveKind kStore{"stmatrix", execute_move<Access::kWrite>, true};

}  // namespace

void ldmatrix(uint32_t* registers, uint32_t matrices, bool transposed, uint32_t address) {
  Move move{registers, matrices, transposed, address, __builtin_return_address(0)};
  meet(kAllLanes, kLoad, &move);
}

void stmatrix(const uint32_t* registers, uint32_t matrices, bool transposed, uint32_t address) {
  Move move{const_cast<uint32_t*>(registers), matrices, transposed, address,
            __builtin_return_address(0)};
  meet(kAllLanes, kStore, &move);
}

}  // namespace rnc::emulator
