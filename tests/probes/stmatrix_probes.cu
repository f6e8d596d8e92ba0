// stmatrix.
#include "probe.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/shared_address.cuh"

namespace rnc::probes {
namespace {

struct RowStorage {
  uint32_t rows[32][4];
};

// in[0]: the registers, lane after lane; lane l names row in[1][l] of 32 rows of 16 bytes.
template <int kMatrices, bool kTransposed>
__global__ void __launch_bounds__(32) stmatrix_kernel(const __grid_constant__ ProbeParams p) {
  RowStorage& shared = dynamic_smem<RowStorage>();
  fill(&shared.rows[0][0], kUntouched, 128);
  uint32_t registers[kMatrices];
  RNC_UNROLL
  for (int i = 0; i < kMatrices; ++i) {
    registers[i] = ptx::load_global(p.in[0] + threadIdx.x * kMatrices + i);
  }
  __syncwarp();
  ptx::stmatrix<kMatrices, kTransposed>(
      ptx::shared_address(shared.rows[ptx::load_global(p.in[1] + threadIdx.x)]), registers);
  __syncwarp();
  copy_out(p.out, &shared.rows[0][0], 128);
}
constexpr size_t kRows = sizeof(RowStorage);
RNC_PROBE(stmatrix_x1, (stmatrix_kernel<1, false>), 1, 32, kRows)
RNC_PROBE(stmatrix_x2, (stmatrix_kernel<2, false>), 1, 32, kRows)
RNC_PROBE(stmatrix_x4, (stmatrix_kernel<4, false>), 1, 32, kRows)
RNC_PROBE(stmatrix_x1_trans, (stmatrix_kernel<1, true>), 1, 32, kRows)
RNC_PROBE(stmatrix_x2_trans, (stmatrix_kernel<2, true>), 1, 32, kRows)
RNC_PROBE(stmatrix_x4_trans, (stmatrix_kernel<4, true>), 1, 32, kRows)

}  // namespace
}  // namespace rnc::probes
