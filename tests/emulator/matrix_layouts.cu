// One matrix instruction per kernel, registers and shared memory in and out as they are: what the
// instruction does with them is described in test_matrix_layouts.py.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/ldmatrix.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma_sync.cuh"
#include "ptx/shared_address.cuh"
#include "ptx/wgmma.cuh"

namespace rnc {
namespace {

struct Params {
  const void* in[3];
  void* out;
  int64_t numbers[4];
};

template <class Register, int kCount>
__device__ void load_registers(Register (&registers)[kCount], const void* from, uint32_t owner) {
  for (int i = 0; i < kCount; ++i) {
    registers[i] = ptx::load_global(static_cast<const Register*>(from) + owner * kCount + i);
  }
}

template <class Register, int kCount>
__device__ void store_registers(void* to, const Register (&registers)[kCount], uint32_t owner) {
  for (int i = 0; i < kCount; ++i) {
    ptx::store_global(static_cast<Register*>(to) + owner * kCount + i, registers[i]);
  }
}

// ------------------------------------------------------------------ ldmatrix, stmatrix
struct RowStorage {
  alignas(16) uint32_t words[256];
};

// in[0]: what shared memory holds; in[1]: each lane's row address in it.
template <int kMatrices, bool kTransposed>
__global__ void __launch_bounds__(32) load_matrices(const __grid_constant__ Params p) {
  RowStorage& shared = dynamic_smem<RowStorage>();
  for (uint32_t i = threadIdx.x; i < 256; i += 32) {
    shared.words[i] = ptx::load_global(static_cast<const uint32_t*>(p.in[0]) + i);
  }
  __syncwarp();
  const uint32_t row = ptx::load_global(static_cast<const uint32_t*>(p.in[1]) + threadIdx.x);
  uint32_t registers[kMatrices];
  ptx::ldmatrix<kMatrices, kTransposed>(registers, ptx::shared_address(&shared) + row);
  store_registers(p.out, registers, threadIdx.x);
}

// Two instructions at once: in[1] has two row addresses for each lane.
template <bool kTransposed>
__global__ void __launch_bounds__(32) load_matrices_twice(const __grid_constant__ Params p) {
  RowStorage& shared = dynamic_smem<RowStorage>();
  for (uint32_t i = threadIdx.x; i < 256; i += 32) {
    shared.words[i] = ptx::load_global(static_cast<const uint32_t*>(p.in[0]) + i);
  }
  __syncwarp();
  uint32_t rows[2], registers[2][4];
  load_registers(rows, p.in[1], threadIdx.x);
  for (uint32_t& row : rows) row += ptx::shared_address(&shared);
  ptx::ldmatrix_tile<kTransposed>(registers, rows);
  for (uint32_t i = 0; i < 2; ++i) store_registers(p.out, registers[i], threadIdx.x * 2 + i);
}

// in[0]: registers; in[1]: each lane's row address.
template <int kMatrices, bool kTransposed>
__global__ void __launch_bounds__(32) store_matrices(const __grid_constant__ Params p) {
  RowStorage& shared = dynamic_smem<RowStorage>();
  for (uint32_t i = threadIdx.x; i < 256; i += 32) shared.words[i] = 0;
  __syncwarp();
  const uint32_t row = ptx::load_global(static_cast<const uint32_t*>(p.in[1]) + threadIdx.x);
  uint32_t registers[kMatrices];
  load_registers(registers, p.in[0], threadIdx.x);
  ptx::stmatrix<kMatrices, kTransposed>(ptx::shared_address(&shared) + row, registers);
  __syncwarp();
  for (uint32_t i = threadIdx.x; i < 256; i += 32) {
    ptx::store_global(static_cast<uint32_t*>(p.out) + i, shared.words[i]);
  }
}

// ------------------------------------------------------------------ mma.sync
// in: the lanes' registers of C, A and B.
template <ptx::Mma kKind>
__global__ void __launch_bounds__(32) multiply(const __grid_constant__ Params p) {
  using Fragments = ptx::MmaFragments<kKind>;
  typename Fragments::Accumulator c[Fragments::kC];
  typename Fragments::Operand a[Fragments::kA], b[Fragments::kB];
  load_registers(c, p.in[0], threadIdx.x);
  load_registers(a, p.in[1], threadIdx.x);
  load_registers(b, p.in[2], threadIdx.x);
  ptx::mma<kKind>(c, a, b);
  store_registers(p.out, c, threadIdx.x);
}

// A warp tile of 3 x 2: the registers of a lane for tile after tile.
template <ptx::Mma kKind>
__global__ void __launch_bounds__(32) multiply_tile(const __grid_constant__ Params p) {
  using Fragments = ptx::MmaFragments<kKind>;
  typename Fragments::Accumulator c[3][2][Fragments::kC];
  typename Fragments::Operand a[3][Fragments::kA], b[2][Fragments::kB];
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 2; ++j) load_registers(c[i][j], p.in[0], threadIdx.x * 6 + i * 2 + j);
    load_registers(a[i], p.in[1], threadIdx.x * 3 + i);
  }
  for (int j = 0; j < 2; ++j) load_registers(b[j], p.in[2], threadIdx.x * 2 + j);
  ptx::mma_tile<kKind>(c, a, b);
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 2; ++j) store_registers(p.out, c[i][j], threadIdx.x * 6 + i * 2 + j);
  }
}

// ------------------------------------------------------------------ wgmma
constexpr uint32_t kOperandBytes = 96 * 1024;
struct OperandStorage {
  alignas(1024) uint32_t words[kOperandBytes / 4];
};

// Fills shared memory with in[2], of numbers[3] words.
__device__ uint64_t place_operands(const Params& p) {
  OperandStorage& shared = dynamic_smem<OperandStorage>();
  for (uint32_t i = threadIdx.x; i < p.numbers[3]; i += 128) {
    shared.words[i] = ptx::load_global(static_cast<const uint32_t*>(p.in[2]) + i);
  }
  ptx::fence_proxy_async();
  __syncthreads();
  return ptx::shared_address(&shared) >> 4;
}

// in[0]: the threads' accumulators; in[2]: operands; numbers: descriptors relative to the start of
// shared memory, whether to accumulate.
template <class Element, int N, bool kTransposeA, bool kTransposeB>
__global__ void __launch_bounds__(128) multiply_shared(const __grid_constant__ Params p) {
  const uint64_t base = place_operands(p);
  float d[N / 2];
  load_registers(d, p.in[0], threadIdx.x);
  ptx::wgmma_fence();
  ptx::wgmma_ss<Element, N, kTransposeA, kTransposeB>(d, base + static_cast<uint64_t>(p.numbers[0]),
                                                      base + static_cast<uint64_t>(p.numbers[1]),
                                                      p.numbers[2] != 0);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::keep_registers(d);
  store_registers(p.out, d, threadIdx.x);
}

// in[1]: the threads' fragments of A.
template <class Element, int N, bool kTransposeB>
__global__ void __launch_bounds__(128) multiply_registers(const __grid_constant__ Params p) {
  const uint64_t base = place_operands(p);
  float d[N / 2];
  uint32_t a[4];
  load_registers(d, p.in[0], threadIdx.x);
  load_registers(a, p.in[1], threadIdx.x);
  ptx::wgmma_fence();
  ptx::wgmma_rs<Element, N, kTransposeB>(d, a, base + static_cast<uint64_t>(p.numbers[1]),
                                         p.numbers[2] != 0);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::keep_registers(a);
  ptx::keep_registers(d);
  store_registers(p.out, d, threadIdx.x);
}

template <auto kKernel, uint32_t kThreads, size_t kSharedBytes>
Status launch(const LaunchArguments& arguments) {
  Params params = {};
  for (int i = 0; i < 3; ++i) params.in[i] = arguments.buffer<const void>(i);
  params.out = arguments.buffer<void>(3);
  for (int i = 0; i < 4; ++i) params.numbers[i] = arguments.number<int64_t>(i);
  return launch_kernel("matrix_layout", kKernel, Dim3{1, 1, 1}, Dim3{kThreads, 1, 1}, kSharedBytes,
                       nullptr, params);
}

constexpr size_t kRows = sizeof(RowStorage), kOperands = sizeof(OperandStorage);

#define RNC_LAYOUT(name, threads, bytes, ...) \
  const KernelRegistration name##_registration{#name, launch<__VA_ARGS__, threads, bytes>};

RNC_LAYOUT(ldmatrix_x1, 32, kRows, load_matrices<1, false>)
RNC_LAYOUT(ldmatrix_x2, 32, kRows, load_matrices<2, false>)
RNC_LAYOUT(ldmatrix_x4, 32, kRows, load_matrices<4, false>)
RNC_LAYOUT(ldmatrix_x1_trans, 32, kRows, load_matrices<1, true>)
RNC_LAYOUT(ldmatrix_x2_trans, 32, kRows, load_matrices<2, true>)
RNC_LAYOUT(ldmatrix_x4_trans, 32, kRows, load_matrices<4, true>)
RNC_LAYOUT(ldmatrix_tile, 32, kRows, load_matrices_twice<false>)
RNC_LAYOUT(ldmatrix_tile_trans, 32, kRows, load_matrices_twice<true>)
RNC_LAYOUT(stmatrix_x1, 32, kRows, store_matrices<1, false>)
RNC_LAYOUT(stmatrix_x2, 32, kRows, store_matrices<2, false>)
RNC_LAYOUT(stmatrix_x4, 32, kRows, store_matrices<4, false>)
RNC_LAYOUT(stmatrix_x1_trans, 32, kRows, store_matrices<1, true>)
RNC_LAYOUT(stmatrix_x2_trans, 32, kRows, store_matrices<2, true>)
RNC_LAYOUT(stmatrix_x4_trans, 32, kRows, store_matrices<4, true>)

#define RNC_MMA_LAYOUT(name, kind)                        \
  RNC_LAYOUT(mma_##name, 32, 0, multiply<ptx::Mma::kind>) \
  RNC_LAYOUT(mma_tile_##name, 32, 0, multiply_tile<ptx::Mma::kind>)
RNC_MMA_LAYOUT(m16n8k16_bf16, kM16N8K16Bfloat16)
RNC_MMA_LAYOUT(m16n8k16_f16, kM16N8K16Float16)
RNC_MMA_LAYOUT(m16n8k8_bf16, kM16N8K8Bfloat16)
RNC_MMA_LAYOUT(m16n8k8_tf32, kM16N8K8TensorFloat32)
RNC_MMA_LAYOUT(m8n8k4_f64, kM8N8K4Float64)

// Names end with the majors of A and B: k or mn.
#define RNC_WGMMA_LAYOUT(type, Element, N)                                                      \
  RNC_LAYOUT(wgmma_ss_##type##_n##N##_k_k, 128, kOperands,                                      \
             multiply_shared<Element, N, false, false>)                                         \
  RNC_LAYOUT(wgmma_ss_##type##_n##N##_mn_k, 128, kOperands,                                     \
             multiply_shared<Element, N, true, false>)                                          \
  RNC_LAYOUT(wgmma_ss_##type##_n##N##_k_mn, 128, kOperands,                                     \
             multiply_shared<Element, N, false, true>)                                          \
  RNC_LAYOUT(wgmma_ss_##type##_n##N##_mn_mn, 128, kOperands,                                    \
             multiply_shared<Element, N, true, true>)                                           \
  RNC_LAYOUT(wgmma_rs_##type##_n##N##_k, 128, kOperands, multiply_registers<Element, N, false>) \
  RNC_LAYOUT(wgmma_rs_##type##_n##N##_mn, 128, kOperands, multiply_registers<Element, N, true>)
RNC_WGMMA_LAYOUT(bf16, bfloat16, 8)
RNC_WGMMA_LAYOUT(bf16, bfloat16, 24)
RNC_WGMMA_LAYOUT(bf16, bfloat16, 64)
RNC_WGMMA_LAYOUT(bf16, bfloat16, 136)
RNC_WGMMA_LAYOUT(bf16, bfloat16, 256)
RNC_WGMMA_LAYOUT(f16, float16, 64)
#define RNC_TENSOR_FLOAT_LAYOUT(N)                                                              \
  RNC_LAYOUT(wgmma_ss_tf32_n##N##_k_k, 128, kOperands, multiply_shared<float, N, false, false>) \
  RNC_LAYOUT(wgmma_rs_tf32_n##N##_k, 128, kOperands, multiply_registers<float, N, false>)
RNC_TENSOR_FLOAT_LAYOUT(8)
RNC_TENSOR_FLOAT_LAYOUT(64)
RNC_TENSOR_FLOAT_LAYOUT(256)

}  // namespace
}  // namespace rnc
