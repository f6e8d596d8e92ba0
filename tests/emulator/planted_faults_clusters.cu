// Clusters: blocks that read, write and signal each other's shared memory.
#include <cstdint>
#include <iterator>

#include "planted_faults.h"
#include "ptx/cluster.cuh"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/shared_address.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kNoSyncAtStart,
  kNoSyncBeforeExit,
  kNoSuchRank,
  kOutOfBounds,
  kMisaligned,
  kArriveTwice,
  kWaitWithoutArrive,
  kOneBlockDoesNotSync,
  kLateVisit,
  kInitNotFenced,
  kReceiverDoesNotWait,
  kGenericPointer,
  kSyncInsteadOfClusterSync,
};

constexpr uint32_t kThreads = 64;

struct RotationStorage {
  float values[kThreads];
};

__device__ uint32_t next_rank() { return (ptx::cluster_rank() + 1) % ptx::cluster_size(); }

// Each block of a cluster passes its part of x to the next one, by reading: y = x rotated by a
// block. Thread 40 leaves before the last synchronisation, which must not wait for it; its element
// is not written.
template <Fault kFault>
__global__ void __launch_bounds__(kThreads) rotation(const __grid_constant__ Params p) {
  RotationStorage& shared = dynamic_smem<RotationStorage>();
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  shared.values[threadIdx.x] = ptx::load_global(p.x + i);
  if (kFault == Fault::kArriveTwice) ptx::cluster_arrive();
  if (kFault == Fault::kSyncInsteadOfClusterSync) {
    __syncthreads();
  } else if (kFault == Fault::kWaitWithoutArrive) {
    ptx::cluster_wait();
  } else if (kFault == Fault::kOneBlockDoesNotSync && ptx::cluster_rank() == 1) {
    __syncthreads();
  } else if (kFault != Fault::kNoSyncAtStart) {
    ptx::cluster_sync();
  }
  const uint32_t rank = kFault == Fault::kNoSuchRank ? ptx::cluster_size() : next_rank();
  const uint32_t element = kFault == Fault::kOutOfBounds ? threadIdx.x + 1 : threadIdx.x;
  const uint32_t own =
      ptx::shared_address(shared.values) + element * 4 + (kFault == Fault::kMisaligned ? 2 : 0);
  if (kFault == Fault::kLateVisit && ptx::cluster_rank() == 1) return;
  if (kFault == Fault::kLateVisit) {  // long enough for block 1 to exit
    for (int k = 0; k < 64; ++k) __syncthreads();
  }
  if (threadIdx.x == 40) return;
  const float value = ptx::load_shared_cluster<float>(ptx::map_shared_rank(own, rank));
  ptx::store_global(p.y + i, value);
  if (kFault != Fault::kNoSyncBeforeExit) ptx::cluster_sync();
}

// The same by writing, and the receiver learns it from an mbarrier of its own.
struct SignalStorage {
  float values[kThreads];
  ptx::Mbarrier received;
};

template <Fault kFault>
__global__ void __launch_bounds__(kThreads) signal(const __grid_constant__ Params p) {
  SignalStorage& shared = dynamic_smem<SignalStorage>();
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(shared.received, kThreads, "received");
    if (kFault != Fault::kInitNotFenced) ptx::fence_mbarrier_init();
  }
  __syncwarp();
  ptx::cluster_sync();
  const float value = ptx::load_global(p.x + i);
  float* target = shared.values + threadIdx.x;
  if (kFault == Fault::kGenericPointer) {
    *target = value;  // its own block's memory, where another block writes too
  }
  ptx::store_shared_cluster<float>(ptx::map_shared_rank(ptx::shared_address(target), next_rank()),
                                   value);
  ptx::mbarrier_arrive_cluster(shared.received, next_rank());
  if (kFault != Fault::kReceiverDoesNotWait) ptx::mbarrier_wait(shared.received, 0);
  ptx::store_global(p.y + i, shared.values[kThreads - 1 - threadIdx.x]);
  if (kFault == Fault::kNoSyncBeforeExit) return;  // every visit has been waited for
  ptx::cluster_sync();
}

// Thread 0 of block 1 exits where the others of its block wait for it.
__global__ void __launch_bounds__(kThreads) one_block_hangs(const __grid_constant__ Params) {
  if (ptx::cluster_rank() == 1) {
    if (threadIdx.x == 0) return;
    ptx::barrier_sync(3, kThreads);
  }
  ptx::cluster_sync();
}

// What blocks of one cluster write to global memory may be read by the others after cluster_sync.
__global__ void __launch_bounds__(kThreads) global_exchange(const __grid_constant__ Params p) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  ptx::store_global(p.y + i, ptx::load_global(p.x + i));
  ptx::cluster_sync();
  const uint32_t other = (blockIdx.x ^ 1) * kThreads + threadIdx.x;
  ptx::store_global(p.counts + i, static_cast<int32_t>(ptx::load_global(p.y + other)));
}

// counts[block] = rank, size
__global__ void __launch_bounds__(kThreads) ranks(const __grid_constant__ Params p) {
  const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  if (threadIdx.x != 0) return;
  ptx::store_global(p.counts + 2 * block, static_cast<int32_t>(ptx::cluster_rank()));
  ptx::store_global(p.counts + 2 * block + 1, static_cast<int32_t>(ptx::cluster_size()));
}

constexpr size_t kRotation = sizeof(RotationStorage), kSignal = sizeof(SignalStorage);

constexpr Entry kEntries[] = {
    {"rotation", rotation<Fault::kNone>, kRotation},
    {"rotation_no_sync_at_start", rotation<Fault::kNoSyncAtStart>, kRotation},
    {"rotation_no_sync_before_exit", rotation<Fault::kNoSyncBeforeExit>, kRotation},
    {"rotation_no_such_rank", rotation<Fault::kNoSuchRank>, kRotation},
    {"rotation_out_of_bounds", rotation<Fault::kOutOfBounds>, kRotation},
    {"rotation_misaligned", rotation<Fault::kMisaligned>, kRotation},
    {"rotation_arrive_twice", rotation<Fault::kArriveTwice>, kRotation},
    {"rotation_wait_without_arrive", rotation<Fault::kWaitWithoutArrive>, kRotation},
    {"rotation_one_block_does_not_sync", rotation<Fault::kOneBlockDoesNotSync>, kRotation},
    {"rotation_late_visit", rotation<Fault::kLateVisit>, kRotation},
    {"rotation_syncthreads_at_start", rotation<Fault::kSyncInsteadOfClusterSync>, kRotation},
    {"rotation_one_block_hangs", one_block_hangs, 0},
    {"signal", signal<Fault::kNone>, kSignal},
    {"signal_no_sync_before_exit", signal<Fault::kNoSyncBeforeExit>, kSignal},
    {"signal_init_not_fenced", signal<Fault::kInitNotFenced>, kSignal},
    {"signal_receiver_does_not_wait", signal<Fault::kReceiverDoesNotWait>, kSignal},
    {"signal_two_writers", signal<Fault::kGenericPointer>, kSignal},
    {"global_exchange", global_exchange, 0},
    {"ranks", ranks, 0},
};

}  // namespace

Table kernels_with_cluster_faults() { return {std::begin(kEntries), std::end(kEntries)}; }

}  // namespace rnc
