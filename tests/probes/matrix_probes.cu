// ldmatrix and mma.sync: registers in and out.
#include "probe.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/maximum.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/shared_address.cuh"
#include "ptx/tensor_float32.cuh"

namespace rnc::probes {
namespace {

struct RowStorage {
  uint32_t rows[32][4];
};

// 32 rows of 16 bytes in in[0]; lane l names row in[1][l].
template <int kMatrices, bool kTransposed>
__global__ void __launch_bounds__(32) ldmatrix_kernel(const __grid_constant__ ProbeParams p) {
  RowStorage& shared = dynamic_smem<RowStorage>();
  copy_in(&shared.rows[0][0], p.in[0], 128);
  __syncwarp();
  uint32_t registers[kMatrices];
  ptx::ldmatrix<kMatrices, kTransposed>(
      registers, ptx::shared_address(shared.rows[ptx::load_global(p.in[1] + threadIdx.x)]));
  RNC_UNROLL
  for (int i = 0; i < kMatrices; ++i) {
    ptx::store_global(p.out + threadIdx.x * kMatrices + i, registers[i]);
  }
}
constexpr size_t kRows = sizeof(RowStorage);
RNC_PROBE(ldmatrix_x1, (ldmatrix_kernel<1, false>), 1, 32, kRows)
RNC_PROBE(ldmatrix_x2, (ldmatrix_kernel<2, false>), 1, 32, kRows)
RNC_PROBE(ldmatrix_x4, (ldmatrix_kernel<4, false>), 1, 32, kRows)
RNC_PROBE(ldmatrix_x1_trans, (ldmatrix_kernel<1, true>), 1, 32, kRows)
RNC_PROBE(ldmatrix_x2_trans, (ldmatrix_kernel<2, true>), 1, 32, kRows)
RNC_PROBE(ldmatrix_x4_trans, (ldmatrix_kernel<4, true>), 1, 32, kRows)

// Three instructions at once: for instruction i, lane l names row in[1][32 i + l].
template <int kMatrices, bool kTransposed>
__global__ void __launch_bounds__(32) ldmatrix_tile_kernel(const __grid_constant__ ProbeParams p) {
  RowStorage& shared = dynamic_smem<RowStorage>();
  copy_in(&shared.rows[0][0], p.in[0], 128);
  __syncwarp();
  uint32_t registers[3][kMatrices], addresses[3];
  RNC_UNROLL
  for (int i = 0; i < 3; ++i) {
    addresses[i] =
        ptx::shared_address(shared.rows[ptx::load_global(p.in[1] + 32 * i + threadIdx.x)]);
  }
  ptx::ldmatrix_tile<kTransposed>(registers, addresses);
  RNC_UNROLL
  for (int i = 0; i < 3 * kMatrices; ++i) {
    ptx::store_global(p.out + threadIdx.x * 3 * kMatrices + i,
                      registers[i / kMatrices][i % kMatrices]);
  }
}
RNC_PROBE(ldmatrix_tile_x2_trans, (ldmatrix_tile_kernel<2, true>), 1, 32, kRows)
RNC_PROBE(ldmatrix_tile_x4, (ldmatrix_tile_kernel<4, false>), 1, 32, kRows)

// in[0], in[1], in[2]: the registers of A, B and C, lane after lane.
template <class Register, int kCount>
__device__ __forceinline__ void load_registers(Register (&registers)[kCount], const uint32_t* in,
                                               int index) {
  const Register* source = reinterpret_cast<const Register*>(in) + index * kCount;
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) registers[i] = ptx::load_global(source + i);
}
template <class Register, int kCount>
__device__ __forceinline__ void store_registers(uint32_t* out, const Register (&registers)[kCount],
                                                int index) {
  Register* target = reinterpret_cast<Register*>(out) + index * kCount;
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) ptx::store_global(target + i, registers[i]);
}

template <ptx::Mma kKind>
__global__ void __launch_bounds__(32) mma_kernel(const __grid_constant__ ProbeParams p) {
  using Fragments = ptx::MmaFragments<kKind>;
  typename Fragments::Operand a[Fragments::kA], b[Fragments::kB];
  typename Fragments::Accumulator c[Fragments::kC];
  const int lane = static_cast<int>(threadIdx.x);
  load_registers(a, p.in[0], lane);
  load_registers(b, p.in[1], lane);
  load_registers(c, p.in[2], lane);
  ptx::mma<kKind>(c, a, b);
  store_registers(p.out, c, lane);
}
RNC_PROBE(mma_m16n8k16_bf16, mma_kernel<ptx::Mma::kM16N8K16Bfloat16>, 1, 32)
RNC_PROBE(mma_m16n8k16_f16, mma_kernel<ptx::Mma::kM16N8K16Float16>, 1, 32)
RNC_PROBE(mma_m16n8k8_bf16, mma_kernel<ptx::Mma::kM16N8K8Bfloat16>, 1, 32)
RNC_PROBE(mma_m16n8k8_tf32, mma_kernel<ptx::Mma::kM16N8K8TensorFloat32>, 1, 32)
RNC_PROBE(mma_m8n8k4_f64, mma_kernel<ptx::Mma::kM8N8K4Float64>, 1, 32)

// A warp tile of 2 x 3 instructions: fragments of tile row i, then of tile column j, then of (i,
// j).
template <ptx::Mma kKind>
__global__ void __launch_bounds__(32) mma_tile_kernel(const __grid_constant__ ProbeParams p) {
  using Fragments = ptx::MmaFragments<kKind>;
  typename Fragments::Operand a[2][Fragments::kA], b[3][Fragments::kB];
  typename Fragments::Accumulator c[2][3][Fragments::kC];
  const int lane = static_cast<int>(threadIdx.x);
  RNC_UNROLL
  for (int i = 0; i < 2; ++i) load_registers(a[i], p.in[0], i * 32 + lane);
  RNC_UNROLL
  for (int j = 0; j < 3; ++j) load_registers(b[j], p.in[1], j * 32 + lane);
  RNC_UNROLL
  for (int i = 0; i < 6; ++i) load_registers(c[i / 3][i % 3], p.in[2], i * 32 + lane);
  ptx::mma_tile<kKind>(c, a, b);
  RNC_UNROLL
  for (int i = 0; i < 6; ++i) store_registers(p.out, c[i / 3][i % 3], i * 32 + lane);
}
RNC_PROBE(mma_tile_m16n8k16_bf16, mma_tile_kernel<ptx::Mma::kM16N8K16Bfloat16>, 1, 32)
RNC_PROBE(mma_tile_m8n8k4_f64, mma_tile_kernel<ptx::Mma::kM8N8K4Float64>, 1, 32)

// What an instruction reads of the rounded number: the lower 13 bits are not defined, nor is which
// NaN a NaN becomes.
__global__ void __launch_bounds__(32) tensor_float32_kernel(const __grid_constant__ ProbeParams p) {
  const uint32_t read =
      ptx::round_to_tensor_float32(ptx::load_global(p.in[0] + threadIdx.x)) & 0xFFFFE000u;
  const bool is_nan = (read & 0x7FFFFFFFu) > 0x7F800000u;
  ptx::store_global(p.out + threadIdx.x, is_nan ? 0x7FFFFFFFu : read);
}
RNC_PROBE(round_to_tensor_float32, tensor_float32_kernel, 1, 32)

// Which NaN it is, is not defined.
__global__ void __launch_bounds__(32) maximum_kernel(const __grid_constant__ ProbeParams p) {
  const auto number = [&](int i) {
    return __int_as_float(int(ptx::load_global(p.in[i] + threadIdx.x)));
  };
  const float larger = ptx::max_or_nan(number(0), number(1));
  ptx::store_global(p.out + threadIdx.x,
                    larger != larger ? 0x7FFFFFFFu : uint32_t(__float_as_int(larger)));
}
RNC_PROBE(max_or_nan, maximum_kernel, 1, 32)

}  // namespace
}  // namespace rnc::probes
