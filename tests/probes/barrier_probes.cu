// Named barriers.
#include "probe.cuh"
#include "ptx/named_barrier.cuh"

namespace rnc::probes {
namespace {

constexpr uint32_t kRounds = 3;

struct ChainStorage {
  uint32_t values[4][32];
};

// A chain of four warps, three times: each warp waits for the one before it, doubles what that left
// and adds its own. A barrier in the middle of the chain has one warp that only arrives, and one
// that waits; the last one has all.
__global__ void __launch_bounds__(128) named_barrier_kernel(const __grid_constant__ ProbeParams p) {
  ChainStorage& shared = dynamic_smem<ChainStorage>();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (uint32_t round = 0; round < kRounds; ++round) {
    uint32_t value = ptx::load_global(p.in[0] + round * 128 + threadIdx.x);
    if (warp > 0) {
      ptx::barrier_sync(warp, 64);
      value += 2 * shared.values[warp - 1][31 - lane];
    }
    shared.values[warp][lane] = value;
    if (warp < 3) ptx::barrier_arrive(warp + 1, 64);
    ptx::barrier_sync(15, 128);
    ptx::store_global(p.out + round * 128 + threadIdx.x, shared.values[3 - warp][lane]);
    ptx::barrier_sync(0, 128);
  }
}
RNC_PROBE(named_barriers, named_barrier_kernel, 1, 128, sizeof(ChainStorage))

}  // namespace
}  // namespace rnc::probes
