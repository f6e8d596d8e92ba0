// TMA of tiles: loads and stores of 1 to 5 dimensions. The boxes, swizzles and coordinates are
// numbers of the probes.
#include "tma_kernels.cuh"

namespace rnc::probes {
namespace {

template <int kRank>
__global__ void __launch_bounds__(32) tma_load_kernel(const __grid_constant__ TmaParams params) {
  const ProbeParams& p = params.probe;
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  const uint32_t words = static_cast<uint32_t>(p.numbers[At::kBoxWords]);
  prepare_box(shared, words + kWordsBehindBox);
  int32_t coordinates[kRank];
  read_coordinates(coordinates, p);
  // Load with both ways to announce the bytes.
  if (ptx::elect_one()) {
    if (kRank % 2 == 0) {
      ptx::mbarrier_arrive_expect_tx(shared.barrier, words * 4);
      ptx::tma_load(shared.box, &params.map, shared.barrier, coordinates);
    } else {
      ptx::mbarrier_expect_tx(shared.barrier, words * 4);
      ptx::tma_load(shared.box, &params.map, shared.barrier, coordinates);
      ptx::mbarrier_arrive(shared.barrier);
    }
  }
  ptx::mbarrier_wait(shared.barrier, 0);
  copy_out(p.out, shared.box, words + kWordsBehindBox);
}

template <int kRank>
__global__ void __launch_bounds__(32) tma_store_kernel(const __grid_constant__ TmaParams params) {
  const ProbeParams& p = params.probe;
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  copy_in(shared.box, p.in[0], static_cast<uint32_t>(p.numbers[At::kBoxWords]));
  ptx::fence_proxy_async();
  __syncwarp();
  int32_t coordinates[kRank];
  read_coordinates(coordinates, p);
  if (ptx::elect_one()) {
    ptx::tma_store(&params.map, shared.box, coordinates);
    ptx::tma_store_commit();
    ptx::tma_store_wait<0>();
  }
}

// Three stores of consecutive boxes along dimension 1, the third from where the first was.
__global__ void __launch_bounds__(32)
    tma_store_groups_kernel(const __grid_constant__ TmaParams params) {
  const ProbeParams& p = params.probe;
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  const uint32_t words = static_cast<uint32_t>(p.numbers[At::kBoxWords]);
  const int32_t step = static_cast<int32_t>(p.numbers[At::kStep]);
  uint32_t* first = shared.box;
  uint32_t* second = shared.box + 1024;
  int32_t coordinates[2];
  read_coordinates(coordinates, p);
  // Store two boxes as a group each.
  copy_in(first, p.in[0], words);
  copy_in(second, p.in[0] + words, words);
  ptx::fence_proxy_async();
  __syncwarp();
  const bool leader = ptx::elect_one();
  if (leader) {
    ptx::tma_store(&params.map, first, coordinates);
    ptx::tma_store_commit();
    coordinates[1] += step;
    ptx::tma_store(&params.map, second, coordinates);
    ptx::tma_store_commit();
    ptx::tma_store_wait_read<1>();
  }
  __syncwarp();
  // The first has been read: use its place again.
  copy_in(first, p.in[0] + 2 * words, words);
  ptx::fence_proxy_async();
  __syncwarp();
  if (leader) {
    coordinates[1] += step;
    ptx::tma_store(&params.map, first, coordinates);
    ptx::tma_store_commit();
    ptx::tma_store_wait_read<0>();
    ptx::tma_store_wait<0>();
  }
}

using TmaKernel = void (*)(TmaParams);

Status launch_tile(TmaKernel kernel, const LaunchArguments& arguments, int rank, int tensor) {
  TmaParams params = {};
  const Status made = make_tile_map(params, arguments, rank, arguments.buffer<void>(tensor));
  if (!made.ok()) return made;
  return launch_kernel("tma_tile", kernel, Dim3{1, 1, 1}, Dim3{32, 1, 1}, sizeof(BoxStorage),
                       nullptr, params);
}
template <int kRank>
Status launch_load(const LaunchArguments& arguments) {
  return launch_tile(tma_load_kernel<kRank>, arguments, kRank, 1);
}
template <int kRank>
Status launch_store(const LaunchArguments& arguments) {
  return launch_tile(tma_store_kernel<kRank>, arguments, kRank, 0);
}
Status launch_store_groups(const LaunchArguments& arguments) {
  return launch_tile(tma_store_groups_kernel, arguments, 2, 0);
}
const KernelRegistration registrations[] = {
    {"tma_load_1d", launch_load<1>},           {"tma_load_2d", launch_load<2>},
    {"tma_load_3d", launch_load<3>},           {"tma_load_4d", launch_load<4>},
    {"tma_load_5d", launch_load<5>},           {"tma_store_1d", launch_store<1>},
    {"tma_store_2d", launch_store<2>},         {"tma_store_3d", launch_store<3>},
    {"tma_store_4d", launch_store<4>},         {"tma_store_5d", launch_store<5>},
    {"tma_store_groups", launch_store_groups},
};

}  // namespace
}  // namespace rnc::probes
