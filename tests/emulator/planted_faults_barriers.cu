// Named barriers: two warps write, two others read what they wrote, several times over.
#include <cstdint>
#include <iterator>

#include "planted_faults.h"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"
#include "ptx/named_barrier.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kReadersDoNotWait,
  kWritersDoNotWait,
  kWritersDoNotArrive,
  kOneWarpDoesNotArrive,
  kDifferentCounts,
  kCountOfPartOfAWarp,
  kMoreThreadsThanTheBlock,
  kNoSuchBarrier,
  kArriveTwice,
  kBarrierOfSyncthreads,
};

constexpr uint32_t kFull = 1, kEmpty = 2, kThreads = 128, kHalf = 64;

struct ExchangeStorage {
  float values[kHalf];
};

// y[round * 64 + i] = x[i] + round
template <Fault kFault>
__global__ void __launch_bounds__(kThreads) exchange(const __grid_constant__ Params p) {
  ExchangeStorage& shared = dynamic_smem<ExchangeStorage>();
  const uint32_t i = threadIdx.x % kHalf;
  const bool writes = threadIdx.x < kHalf;
  for (int32_t round = 0; round < p.n; ++round) {
    if (writes) {
      if (round > 0 && kFault != Fault::kWritersDoNotWait) ptx::barrier_sync(kEmpty, kThreads);
      shared.values[i] = ptx::load_global(p.x + i) + static_cast<float>(round);
      if (kFault == Fault::kWritersDoNotArrive) continue;
      if (kFault == Fault::kOneWarpDoesNotArrive && threadIdx.x < 32) continue;
      ptx::barrier_arrive(kFull, kThreads);
      if (kFault == Fault::kArriveTwice) ptx::barrier_arrive(kFull, kThreads);
    } else {
      constexpr uint32_t kExpected = kFault == Fault::kDifferentCounts           ? 96
                                     : kFault == Fault::kCountOfPartOfAWarp      ? 120
                                     : kFault == Fault::kMoreThreadsThanTheBlock ? 160
                                                                                 : kThreads;
      if (kFault == Fault::kReadersDoNotWait) {
        ptx::barrier_arrive(kFull, kThreads);
      } else {
        ptx::barrier_sync(kFault == Fault::kNoSuchBarrier ? 16 : kFull, kExpected);
      }
      ptx::store_global(p.y + round * kHalf + i, shared.values[kHalf - 1 - i]);
      if (round + 1 < p.n) ptx::barrier_arrive(kEmpty, kThreads);
    }
  }
}

// Half of the block uses barrier 0 by name, the other half as __syncthreads.
__global__ void __launch_bounds__(kThreads) barrier_0_twice(const __grid_constant__ Params) {
  if (threadIdx.x < kHalf) {
    ptx::barrier_sync(0, kThreads);
  } else {
    __syncthreads();
  }
}

// All threads by name: the same as __syncthreads.
__global__ void __launch_bounds__(kThreads) barrier_0_by_name(const __grid_constant__ Params p) {
  ExchangeStorage& shared = dynamic_smem<ExchangeStorage>();
  if (threadIdx.x < kHalf) shared.values[threadIdx.x] = ptx::load_global(p.x + threadIdx.x);
  ptx::barrier_sync(0, kThreads);
  if (threadIdx.x >= kHalf) {
    ptx::store_global(p.y + threadIdx.x - kHalf, shared.values[kThreads - 1 - threadIdx.x]);
  }
  __syncthreads();
}

constexpr size_t kBytes = sizeof(ExchangeStorage);

constexpr Entry kEntries[] = {
    {"named", exchange<Fault::kNone>, kBytes},
    {"named_readers_do_not_wait", exchange<Fault::kReadersDoNotWait>, kBytes},
    {"named_writers_do_not_wait", exchange<Fault::kWritersDoNotWait>, kBytes},
    {"named_writers_do_not_arrive", exchange<Fault::kWritersDoNotArrive>, kBytes},
    {"named_one_warp_does_not_arrive", exchange<Fault::kOneWarpDoesNotArrive>, kBytes},
    {"named_different_counts", exchange<Fault::kDifferentCounts>, kBytes},
    {"named_part_of_a_warp", exchange<Fault::kCountOfPartOfAWarp>, kBytes},
    {"named_more_threads_than_the_block", exchange<Fault::kMoreThreadsThanTheBlock>, kBytes},
    {"named_no_such_barrier", exchange<Fault::kNoSuchBarrier>, kBytes},
    {"named_arrive_twice", exchange<Fault::kArriveTwice>, kBytes},
    {"named_barrier_0_twice", barrier_0_twice, 0},
    {"named_barrier_0", barrier_0_by_name, kBytes},
};

}  // namespace

Table kernels_with_barrier_faults() { return {std::begin(kEntries), std::end(kEntries)}; }

}  // namespace rnc
