// Clusters: rank, size, barrier, the shared memory and the mbarriers of other blocks.
#include "probe.cuh"
#include "ptx/cluster.cuh"
#include "ptx/fence.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/shared_address.cuh"

namespace rnc::probes {
namespace {

__global__ void __launch_bounds__(32) cluster_rank_kernel(const __grid_constant__ ProbeParams p) {
  ptx::store_global(p.out + blockIdx.x * 32 + threadIdx.x,
                    ptx::cluster_rank() * 100 + ptx::cluster_size());
}
RNC_PROBE(cluster_rank_of_2, cluster_rank_kernel, 8, 32, 0, 2)
RNC_PROBE(cluster_rank_of_4, cluster_rank_kernel, 8, 32, 0, 4)
RNC_PROBE(cluster_rank_of_8, cluster_rank_kernel, 8, 32, 0, 8)
RNC_PROBE(cluster_rank_of_1, cluster_rank_kernel, 8, 32)

struct ExchangeStorage {
  uint32_t own[64];
  uint64_t inbox[64];
};

// Each block reads its right neighbour's words, backwards, and writes into its left neighbour's
// inbox.
__global__ void __launch_bounds__(64)
    cluster_exchange_kernel(const __grid_constant__ ProbeParams p) {
  ExchangeStorage& shared = dynamic_smem<ExchangeStorage>();
  const uint32_t thread = threadIdx.x, rank = ptx::cluster_rank(), size = ptx::cluster_size();
  shared.own[thread] = ptx::load_global(p.in[0] + blockIdx.x * 64 + thread);
  ptx::cluster_sync();
  // Read.
  const uint32_t neighbour =
      ptx::map_shared_rank(ptx::shared_address(&shared.own[63 - thread]), (rank + 1) % size);
  const uint32_t read = ptx::load_shared_cluster<uint32_t>(neighbour);
  // Write.
  const uint32_t inbox =
      ptx::map_shared_rank(ptx::shared_address(&shared.inbox[thread]), (rank + size - 1) % size);
  ptx::store_shared_cluster<uint64_t>(inbox, static_cast<uint64_t>(rank) << 32 | (read + 1));
  // Publish between the two halves of the barrier.
  ptx::cluster_arrive();
  uint32_t* out = p.out + blockIdx.x * 192 + thread;
  ptx::store_global(out, read);
  ptx::cluster_wait();
  ptx::store_global(out + 64, static_cast<uint32_t>(shared.inbox[thread]));
  ptx::store_global(out + 128, static_cast<uint32_t>(shared.inbox[thread] >> 32));
}
RNC_PROBE(cluster_exchange_of_2, cluster_exchange_kernel, 4, 64, sizeof(ExchangeStorage), 2)
RNC_PROBE(cluster_exchange_of_4, cluster_exchange_kernel, 8, 64, sizeof(ExchangeStorage), 4)

struct RemoteStorage {
  ptx::Mbarrier barrier;
  uint32_t values[4];
};

// Every block gives every block of its cluster a word and arrives at its barrier: thread 0 of rank
// r by one instruction, warp 1 by one that only lane r executes.
__global__ void __launch_bounds__(64) remote_arrive_kernel(const __grid_constant__ ProbeParams p) {
  RemoteStorage& shared = dynamic_smem<RemoteStorage>();
  const uint32_t thread = threadIdx.x, rank = ptx::cluster_rank(), size = ptx::cluster_size();
  if (thread == 0) {
    ptx::mbarrier_init(shared.barrier, 2 * size, "barrier");
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  ptx::cluster_sync();
  // Give and arrive.
  for (uint32_t other = 0; other < size; ++other) {
    if (thread < 32) {
      if (thread == 0) {
        ptx::store_shared_cluster<uint32_t>(
            ptx::map_shared_rank(ptx::shared_address(&shared.values[rank]), other),
            ptx::load_global(p.in[0] + blockIdx.x * size + other));
        ptx::mbarrier_arrive_cluster(shared.barrier, other);
      }
    } else {
      ptx::mbarrier_give_back_cluster_if(shared.barrier, other, thread % 32 == rank);
    }
  }
  // Take what has arrived.
  ptx::mbarrier_wait(shared.barrier, 0);
  ptx::store_global(p.out + blockIdx.x * 64 + thread, shared.values[thread % size]);
  // A block's shared memory must outlive the others' last access to it.
  __syncthreads();
  ptx::cluster_sync();
}
RNC_PROBE(remote_arrive_of_2, remote_arrive_kernel, 4, 64, sizeof(RemoteStorage), 2)
RNC_PROBE(remote_arrive_of_4, remote_arrive_kernel, 4, 64, sizeof(RemoteStorage), 4)

}  // namespace
}  // namespace rnc::probes
