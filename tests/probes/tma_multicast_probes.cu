// TMA loads into several blocks of a cluster.
#include "ptx/cluster.cuh"
#include "tma_kernels.cuh"

namespace rnc::probes {
namespace {

constexpr uint32_t kBlocks = 4;

// Block r loads a box of its own, r steps along dimension 1 (im2col: along the last one), into part
// r of the shared memory of the blocks in its mask. Each block stores all four parts.
template <int kRank, bool kIm2col>
__global__ void __launch_bounds__(32)
    tma_multicast_kernel(const __grid_constant__ TmaParams params) {
  const ProbeParams& p = params.probe;
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  const uint32_t words = static_cast<uint32_t>(p.numbers[At::kBoxWords]);
  const uint32_t rank = ptx::cluster_rank();
  prepare_box(shared, kBlocks * words);
  ptx::cluster_sync();
  // Announce what arrives in this block, and load into others.
  uint32_t boxes = 0;
  for (uint32_t other = 0; other < kBlocks; ++other) {
    boxes += static_cast<uint32_t>(p.numbers[At::kMasks + other] >> rank) & 1u;
  }
  int32_t coordinates[kRank];
  read_coordinates(coordinates, p);
  coordinates[kRank - 1] += static_cast<int32_t>(rank * p.numbers[At::kStep]);
  const uint16_t mask = static_cast<uint16_t>(p.numbers[At::kMasks + rank]);
  if (ptx::elect_one()) {
    ptx::mbarrier_arrive_expect_tx(shared.barrier, boxes * words * 4);
    if constexpr (kIm2col) {
      uint16_t offsets[kRank - 2];
      read_offsets(offsets, p);
      ptx::tma_load_im2col_multicast(shared.box + rank * words, &params.map, shared.barrier,
                                     coordinates, offsets, mask);
    } else {
      ptx::tma_load_multicast(shared.box + rank * words, &params.map, shared.barrier, coordinates,
                              mask);
    }
  }
  ptx::mbarrier_wait(shared.barrier, 0);
  copy_out(p.out + blockIdx.x * kBlocks * words, shared.box, kBlocks * words);
  // No block may leave while another one's load could still write to it.
  __syncwarp();
  ptx::cluster_sync();
}

template <int kRank, bool kIm2col>
Status launch_multicast(const LaunchArguments& arguments) {
  TmaParams params = {};
  const auto make = kIm2col ? make_im2col_map : make_tile_map;
  const Status made = make(params, arguments, kRank, arguments.buffer<void>(1));
  if (!made.ok()) return made;
  return launch_kernel("tma_multicast", tma_multicast_kernel<kRank, kIm2col>, Dim3{kBlocks, 1, 1},
                       Dim3{32, 1, 1}, sizeof(BoxStorage), nullptr, params, Dim3{kBlocks, 1, 1});
}
const KernelRegistration registrations[] = {
    {"tma_multicast_1d", launch_multicast<1, false>},
    {"tma_multicast_2d", launch_multicast<2, false>},
    {"tma_multicast_3d", launch_multicast<3, false>},
    {"tma_multicast_4d", launch_multicast<4, false>},
    {"tma_multicast_5d", launch_multicast<5, false>},
    {"tma_im2col_multicast_3d", launch_multicast<3, true>},
    {"tma_im2col_multicast_4d", launch_multicast<4, true>},
    {"tma_im2col_multicast_5d", launch_multicast<5, true>},
};

}  // namespace
}  // namespace rnc::probes
