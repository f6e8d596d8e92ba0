// TMA of im2col columns, of 3 to 5 dimensions.
#include "tma_kernels.cuh"

namespace rnc::probes {
namespace {

template <int kRank>
__global__ void __launch_bounds__(32) tma_im2col_kernel(const __grid_constant__ TmaParams params) {
  const ProbeParams& p = params.probe;
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  const uint32_t words = static_cast<uint32_t>(p.numbers[At::kBoxWords]);
  prepare_box(shared, words + kWordsBehindBox);
  int32_t coordinates[kRank];
  uint16_t offsets[kRank - 2];
  read_coordinates(coordinates, p);
  read_offsets(offsets, p);
  if (ptx::elect_one()) {
    ptx::mbarrier_arrive_expect_tx(shared.barrier, words * 4);
    ptx::tma_load_im2col(shared.box, &params.map, shared.barrier, coordinates, offsets);
  }
  ptx::mbarrier_wait(shared.barrier, 0);
  copy_out(p.out, shared.box, words + kWordsBehindBox);
}

template <int kRank>
Status launch_im2col(const LaunchArguments& arguments) {
  TmaParams params = {};
  const Status made = make_im2col_map(params, arguments, kRank, arguments.buffer<void>(1));
  if (!made.ok()) return made;
  return launch_kernel("tma_im2col", tma_im2col_kernel<kRank>, Dim3{1, 1, 1}, Dim3{32, 1, 1},
                       sizeof(BoxStorage), nullptr, params);
}
const KernelRegistration registrations[] = {
    {"tma_im2col_3d", launch_im2col<3>},
    {"tma_im2col_4d", launch_im2col<4>},
    {"tma_im2col_5d", launch_im2col<5>},
};

}  // namespace
}  // namespace rnc::probes
