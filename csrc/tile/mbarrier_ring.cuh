// A ring of shared-memory stages between one thread that fills them by TMA and the warps that read
// them. Every stage has two mbarriers: `full` completes when its bytes have arrived, `empty` when
// every consumer warp has released it.
#pragma once

#include "ptx/fence.cuh"
#include "ptx/mbarrier.cuh"
#include "tile/ring_position.cuh"

namespace rnc {

template <int kStages>
struct MbarrierRing {
  using Position = RingPosition<kStages>;

  ptx::Mbarrier full[kStages];
  ptx::Mbarrier empty[kStages];

  // Called by one thread; the block (the cluster) synchronises before anybody uses the ring.
  __device__ __forceinline__ void initialise(uint32_t consumer_warps) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(full[stage], 1, "full");
      ptx::mbarrier_init(empty[stage], consumer_warps, "empty");
    }
    ptx::fence_mbarrier_init();
  }

  // Producer: waits until the stage is free and announces the bytes of the copies that follow.
  // Where stages share fewer buffers, of which they are a multiple, stage i has buffer i % buffers,
  // and is free when the stage before it in there has been released.
  __device__ __forceinline__ void acquire(const Position& at, uint32_t bytes,
                                          int buffers = kStages) {
    // On the first lap the phase before phase 0 is asked for, which counts as complete.
    const bool is_first = at.stage < buffers;
    ptx::mbarrier_wait(empty[at.stage - buffers + (is_first ? kStages : 0)],
                       is_first ? at.parity ^ 1 : at.parity);
    ptx::mbarrier_arrive_expect_tx(full[at.stage], bytes);
  }

  // Producer: announces so many bytes for the next stage, which load(slice, arrived) brings.
  template <class Slice, class Load>
  __device__ __forceinline__ void fill(Slice (&slices)[kStages], Position& at, uint32_t bytes,
                                       Load&& load) {
    acquire(at, bytes);
    load(slices[at.stage], full[at.stage]);
    at.advance();
  }

  // Consumers, every lane: waits until the stage's bytes are there.
  __device__ __forceinline__ void wait(const Position& at) {
    ptx::mbarrier_wait(full[at.stage], at.parity);
  }

  // Consumers, every lane: the warp reads the stage no more. One lane arrives, by predicate: the
  // warp does not diverge.
  __device__ __forceinline__ void release_if(int stage, bool release) {
    ptx::mbarrier_arrive_if(empty[stage], release && threadIdx.x % 32 == 0);
  }

  // The same in every block of a cluster whose stages are filled together: lane i arrives in block
  // i. `initialise` was told the consumer warps of all blocks.
  __device__ __forceinline__ void release_in_cluster_if(int stage, bool release, uint32_t blocks) {
    const uint32_t lane = threadIdx.x % 32;
    ptx::mbarrier_give_back_cluster_if(empty[stage], lane, release && lane < blocks);
  }
};

}  // namespace rnc
