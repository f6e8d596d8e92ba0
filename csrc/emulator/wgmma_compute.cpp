#include "emulator/wgmma_compute.h"

#include <algorithm>

#include "emulator/fiber.h"
#include "emulator/matrix_fragments.h"
#include "emulator/shared_window.h"
#include "emulator/warp.h"
#include "emulator/wgmma_queue.h"

namespace rnc::emulator {

namespace {

constexpr int32_t kRows = 64;
constexpr int32_t kMaxColumns = 256;
constexpr int32_t kMaxDepth = 64;  // of operations that are multiplied in one go

// Between rows of a scratch matrix. Rows a power of two apart would share a few sets of the L1
// cache.
constexpr int32_t stride_of(int32_t columns) { return columns + 16; }

struct alignas(64) Scratch {
  float a[kMaxDepth * stride_of(kRows)];
  float b[kMaxDepth * stride_of(kMaxColumns)];
  float c[kRows * stride_of(kMaxColumns)];
  float exited[kMaxColumns / 2];  // stands for the registers of threads that have exited
};

// The accumulators of an operation, thread by thread.
struct AccumulatorArrays {
  float* registers[kWarpgroupThreads];

  AccumulatorArrays(const Block& block, WgmmaQueue& queue, const WgmmaOperation& operation,
                    Scratch& scratch) {
    if (queue.checks != nullptr) {
      float* const values = queue.checks->values(operation);
      for (uint32_t thread = 0; thread < kWarpgroupThreads; ++thread) {
        registers[thread] = values + thread * static_cast<size_t>(operation.instruction.n) / 2;
      }
      return;
    }
    std::copy_n(operation.accumulators, kWarpgroupThreads, registers);
    // A thread that exits without waiting has been reported; its stack may be another thread's by
    // now.
    const auto warpgroup = static_cast<size_t>(&queue - block.warpgroups);
    const Fiber* const threads = block.fibers + warpgroup * kWarpgroupThreads;
    for (uint32_t warp = 0; warp < kWarpgroupWarps; ++warp) {
      const uint32_t exited = ~threads[warp * kWarpSize].warp->live;
      for_each_lane(exited,
                    [&](uint32_t lane) { registers[warp * kWarpSize + lane] = scratch.exited; });
    }
  }

  // Warp w holds rows 16 w to 16 w + 15.
  void gather(float* c, int32_t n) const {
    for (uint32_t thread = 0; thread < kWarpgroupThreads; ++thread) {
      gather_accumulators(registers[thread], thread % kWarpSize, n / 8,
                          c + thread / kWarpSize * 16 * stride_of(n), stride_of(n));
    }
  }
  void scatter(const float* c, int32_t n) const {
    for (uint32_t thread = 0; thread < kWarpgroupThreads; ++thread) {
      scatter_accumulators(registers[thread], thread % kWarpSize, n / 8,
                           c + thread / kWarpSize * 16 * stride_of(n), stride_of(n));
    }
  }
};

bool same_accumulators(const WgmmaQueue& queue, const WgmmaOperation& x, const WgmmaOperation& y) {
  if (x.instruction.n != y.instruction.n) return false;
  if (queue.checks != nullptr) return x.in_flight == y.in_flight;
  return std::equal(x.accumulators, x.accumulators + kWarpgroupThreads, y.accumulators);
}

void load_a_registers(const WgmmaOperation& operation, float* out) {
  for (uint32_t warp = 0; warp < kWarpgroupWarps; ++warp) {
    const uint32_t* lanes[kWarpSize];
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
      lanes[lane] = operation.a_values[warp * kWarpSize + lane];
    }
    gather_a(lanes, 0, operation.b.type, out + 16 * warp, stride_of(kRows));
  }
}

// Puts the operands of an operation at `depth` of the scratch matrices.
void load_operands(const Block& block, const WgmmaOperation& operation, int32_t depth,
                   Scratch& scratch) {
  const char* const window = block.shared - kSharedBase;
  float* const a = scratch.a + depth * stride_of(kRows);
  if (operation.instruction.a_registers != nullptr) {
    load_a_registers(operation, a);
  } else {
    load_operand(operation.a, window, a, stride_of(kRows));
  }
  const int32_t n = operation.instruction.n;
  load_operand(operation.b, window, scratch.b + depth * stride_of(n), stride_of(n));
}

// The operations from `index` on that use the same accumulators. Returns the number of the next
// one.
uint64_t compute_run(const Block& block, WgmmaQueue& queue, uint64_t index, uint64_t end) {
  const WgmmaOperation& first = queue.at(index);
  const int32_t n = first.instruction.n;
  auto& scratch = block.worker->scratch_as<Scratch>();
  const AccumulatorArrays accumulators(block, queue, first, scratch);
  if (first.instruction.accumulate) accumulators.gather(scratch.c, n);
  while (index < end && same_accumulators(queue, first, queue.at(index))) {
    // As many as fit, up to one that starts anew.
    if (!queue.at(index).instruction.accumulate) std::fill_n(scratch.c, kRows * stride_of(n), 0.0f);
    int32_t depth = 0;
    do {
      load_operands(block, queue.at(index), depth, scratch);
      depth += queue.at(index).depth();
      ++index;
    } while (index < end && depth + 16 <= kMaxDepth && queue.at(index).instruction.accumulate &&
             same_accumulators(queue, first, queue.at(index)));
    multiply_accumulate(scratch.c, stride_of(n), scratch.a, stride_of(kRows), scratch.b,
                        stride_of(n), kRows, n, depth);
    block.worker->counters.mma_multiply_adds += static_cast<uint64_t>(kRows) * n * depth;
  }
  accumulators.scatter(scratch.c, n);
  return index;
}

}  // namespace

void compute(const Block& block, WgmmaQueue& queue, uint64_t end) {
  if (queue.computed >= end) return;
  block.worker->counters.mma_instructions += end - queue.computed;
  while (queue.computed < end) {
    queue.computed = compute_run(block, queue, queue.computed, end);
  }
}

}  // namespace rnc::emulator
