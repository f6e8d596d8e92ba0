// mbarriers without asynchronous copies: one warp writes a ring of two slots, another one reads it.
#include <cstdint>
#include <iterator>

#include "planted_faults.h"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kPolls,
  kPeeks,
  kReaderDoesNotWait,
  kWriterDoesNotWait,
  kWriterDoesNotArrive,
  kOneLaneDoesNotArrive,
  kReaderDoesNotArrive,
  kPollsForEver,
  kWrongParity,
  kWaitsAhead,
  kTooManyArrivals,
  kNoBarrierAfterInit,
  kExpectsBytes,
};

constexpr uint32_t kSlots = 2, kLanes = 32;

struct RingStorage {
  float values[kSlots][kLanes];
  ptx::Mbarrier full[kSlots];
  ptx::Mbarrier empty[kSlots];
};

template <Fault kFault>
__device__ void wait(ptx::Mbarrier& barrier, uint32_t parity) {
  if (kFault == Fault::kPolls || kFault == Fault::kPollsForEver) {
    while (!ptx::mbarrier_try_wait(barrier, parity)) {
    }
  } else if (kFault != Fault::kPeeks || !ptx::mbarrier_try_wait(barrier, parity)) {
    ptx::mbarrier_wait(barrier, parity);
  }
}

// y[round * 32 + lane] = x[lane] + round
template <Fault kFault>
__global__ void __launch_bounds__(64) ring(const __grid_constant__ Params p) {
  RingStorage& shared = dynamic_smem<RingStorage>();
  const uint32_t lane = threadIdx.x % kLanes;
  if (threadIdx.x == 0) {
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      ptx::mbarrier_init(shared.full[slot], kLanes, slot == 0 ? "full[0]" : "full[1]");
      ptx::mbarrier_init(shared.empty[slot], kLanes, slot == 0 ? "empty[0]" : "empty[1]");
    }
  }
  if (kFault != Fault::kNoBarrierAfterInit) __syncthreads();
  for (int32_t round = 0; round < p.n; ++round) {
    const uint32_t slot = round % kSlots, parity = round / kSlots % 2;
    if (threadIdx.x < kLanes) {
      if (kFault != Fault::kWriterDoesNotWait) wait<kFault>(shared.empty[slot], parity ^ 1);
      shared.values[slot][lane] = ptx::load_global(p.x + lane) + static_cast<float>(round);
      if (kFault == Fault::kWriterDoesNotArrive || kFault == Fault::kPollsForEver) continue;
      if (kFault == Fault::kOneLaneDoesNotArrive && lane == 7) continue;
      if (kFault == Fault::kExpectsBytes && lane == 0) {
        ptx::mbarrier_expect_tx(shared.full[slot], 1024);
      }
      ptx::mbarrier_arrive(shared.full[slot]);
      if (kFault == Fault::kTooManyArrivals) ptx::mbarrier_arrive(shared.full[slot]);
    } else {
      const uint32_t waited = kFault == Fault::kWrongParity  ? parity ^ 1
                              : kFault == Fault::kWaitsAhead ? 0
                                                             : parity;
      if (kFault != Fault::kReaderDoesNotWait) wait<kFault>(shared.full[slot], waited);
      ptx::store_global(p.y + round * kLanes + lane, shared.values[slot][kLanes - 1 - lane]);
      if (kFault != Fault::kReaderDoesNotArrive) ptx::mbarrier_arrive(shared.empty[slot]);
    }
  }
}

// ------------------------------------------------------------------ one wrong call each

struct OneStorage {
  ptx::Mbarrier barrier;
  ptx::Mbarrier other;
};

__global__ void __launch_bounds__(32) not_initialised(const __grid_constant__ Params) {
  ptx::mbarrier_arrive(dynamic_smem<OneStorage>().other);
}

__global__ void __launch_bounds__(32) initialised_twice(const __grid_constant__ Params) {
  OneStorage& shared = dynamic_smem<OneStorage>();
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(shared.barrier, 1, "barrier");
  ptx::mbarrier_init(shared.barrier, 1, "barrier");
}

__global__ void __launch_bounds__(32) count_of_operand(const __grid_constant__ Params p) {
  ptx::mbarrier_init(dynamic_smem<OneStorage>().barrier, static_cast<uint32_t>(p.operand));
}

__global__ void __launch_bounds__(32) misaligned(const __grid_constant__ Params) {
  char* bytes = reinterpret_cast<char*>(&dynamic_smem<OneStorage>());
  ptx::mbarrier_init(*reinterpret_cast<ptx::Mbarrier*>(bytes + 4), 1);
}

__global__ void __launch_bounds__(32) overwritten(const __grid_constant__ Params) {
  OneStorage& shared = dynamic_smem<OneStorage>();
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(shared.barrier, 1, "barrier");
  *reinterpret_cast<float*>(&shared.barrier) = 1.0f;
  ptx::mbarrier_arrive(shared.barrier);
}

__global__ void __launch_bounds__(32) too_many_bytes(const __grid_constant__ Params) {
  OneStorage& shared = dynamic_smem<OneStorage>();
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(shared.barrier, 1, "barrier");
  ptx::mbarrier_expect_tx(shared.barrier, 0xFFFFF);
  ptx::mbarrier_expect_tx(shared.barrier, 1);
}

// The phase still waits for bytes.
__global__ void __launch_bounds__(32) too_many_arrivals(const __grid_constant__ Params) {
  OneStorage& shared = dynamic_smem<OneStorage>();
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(shared.barrier, 1, "barrier");
  ptx::mbarrier_arrive_expect_tx(shared.barrier, 64);
  ptx::mbarrier_arrive(shared.barrier);
}

__global__ void __launch_bounds__(32) no_such_parity(const __grid_constant__ Params) {
  OneStorage& shared = dynamic_smem<OneStorage>();
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(shared.barrier, 1, "barrier");
  ptx::mbarrier_wait(shared.barrier, 2);
}

// The memory of an invalidated mbarrier may be used for something else, and for another mbarrier.
__global__ void __launch_bounds__(32) invalidated(const __grid_constant__ Params p) {
  OneStorage& shared = dynamic_smem<OneStorage>();
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(shared.barrier, 1, "first");
  ptx::mbarrier_arrive(shared.barrier);
  ptx::mbarrier_wait(shared.barrier, 0);
  ptx::mbarrier_invalidate(shared.barrier);
  float& value = *reinterpret_cast<float*>(&shared.barrier);
  value = ptx::load_global(p.x);
  ptx::store_global(p.y, value);
  ptx::mbarrier_init(shared.barrier, 2, "second");
  ptx::mbarrier_arrive(shared.barrier);
  ptx::mbarrier_arrive(shared.barrier);
  ptx::mbarrier_wait(shared.barrier, 0);
}

constexpr size_t kRing = sizeof(RingStorage), kOne = sizeof(OneStorage);

constexpr Entry kEntries[] = {
    {"ring", ring<Fault::kNone>, kRing},
    {"ring_polls", ring<Fault::kPolls>, kRing},
    {"ring_peeks", ring<Fault::kPeeks>, kRing},
    {"ring_reader_does_not_wait", ring<Fault::kReaderDoesNotWait>, kRing},
    {"ring_writer_does_not_wait", ring<Fault::kWriterDoesNotWait>, kRing},
    {"ring_writer_does_not_arrive", ring<Fault::kWriterDoesNotArrive>, kRing},
    {"ring_one_lane_does_not_arrive", ring<Fault::kOneLaneDoesNotArrive>, kRing},
    {"ring_reader_does_not_arrive", ring<Fault::kReaderDoesNotArrive>, kRing},
    {"ring_polls_for_ever", ring<Fault::kPollsForEver>, kRing},
    {"ring_wrong_parity", ring<Fault::kWrongParity>, kRing},
    {"ring_waits_ahead", ring<Fault::kWaitsAhead>, kRing},
    {"ring_too_many_arrivals", ring<Fault::kTooManyArrivals>, kRing},
    {"ring_no_barrier_after_init", ring<Fault::kNoBarrierAfterInit>, kRing},
    {"ring_expects_bytes", ring<Fault::kExpectsBytes>, kRing},
    {"mbarrier_not_initialised", not_initialised, kOne},
    {"mbarrier_initialised_twice", initialised_twice, kOne},
    {"mbarrier_count_of_operand", count_of_operand, kOne},
    {"mbarrier_misaligned", misaligned, kOne},
    {"mbarrier_overwritten", overwritten, kOne},
    {"mbarrier_too_many_bytes", too_many_bytes, kOne},
    {"mbarrier_too_many_arrivals", too_many_arrivals, kOne},
    {"mbarrier_no_such_parity", no_such_parity, kOne},
    {"mbarrier_invalidated", invalidated, kOne},
};

}  // namespace

Table kernels_with_mbarrier_faults() { return {std::begin(kEntries), std::end(kEntries)}; }

}  // namespace rnc
