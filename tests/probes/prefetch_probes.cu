// Prefetches, of a tensor map and into the L2 cache: what is read behind them is what was there.
#include "tma_kernels.cuh"

namespace rnc::probes {
namespace {

// Loads a box by a map that was asked for.
__global__ void __launch_bounds__(32)
    tma_prefetch_kernel(const __grid_constant__ TmaParams params) {
  const ProbeParams& p = params.probe;
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  const uint32_t words = static_cast<uint32_t>(p.numbers[At::kBoxWords]);
  prepare_box(shared, words + kWordsBehindBox);
  int32_t coordinates[2];
  read_coordinates(coordinates, p);
  if (ptx::elect_one()) {
    ptx::tma_prefetch(&params.map);
    ptx::mbarrier_arrive_expect_tx(shared.barrier, words * 4);
    ptx::tma_load(shared.box, &params.map, shared.barrier, coordinates);
  }
  ptx::mbarrier_wait(shared.barrier, 0);
  copy_out(p.out, shared.box, words + kWordsBehindBox);
}

Status launch_tma_prefetch(const LaunchArguments& arguments) {
  TmaParams params = {};
  const Status made = make_tile_map(params, arguments, 2, arguments.buffer<void>(1));
  if (!made.ok()) return made;
  return launch_kernel("tma_prefetch", tma_prefetch_kernel, Dim3{1, 1, 1}, Dim3{32, 1, 1},
                       sizeof(BoxStorage), nullptr, params);
}
const KernelRegistration registration{"tma_prefetch", launch_tma_prefetch};

// Reverses 128 words, 16 bytes of which each thread has asked for: of its own, and of the output's.
__global__ void __launch_bounds__(32) prefetch_l2_kernel(const __grid_constant__ ProbeParams p) {
  constexpr uint32_t kWords = 128, kOwn = 4;
  ptx::prefetch_l2(p.in[0] + threadIdx.x * kOwn, kOwn * 4);
  ptx::prefetch_l2(p.out + threadIdx.x * kOwn, kOwn * 4);
  for (uint32_t i = threadIdx.x * kOwn; i < (threadIdx.x + 1) * kOwn; ++i) {
    ptx::store_global(p.out + kWords - 1 - i, ptx::load_global(p.in[0] + i));
  }
}
RNC_PROBE(prefetch_l2, prefetch_l2_kernel, 1, 32)

}  // namespace
}  // namespace rnc::probes
