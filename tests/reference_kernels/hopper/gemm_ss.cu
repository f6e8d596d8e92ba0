// D[m, n] = A[m, k] B[n, k]^T by TMA and wgmma, both operands in shared memory. Rows of all
// matrices are multiples of 16 bytes.
#include "gemm_ss.cuh"
#include "launch/launch_kernel.h"
#include "tensor_maps.h"

namespace rnc::reference {
namespace {

// buffers: d, a, b; numbers: m, n, k
template <class Tile>
Status gemm(const LaunchArguments& arguments) {
  using Element = typename Tile::Element;
  constexpr int32_t kDepth = kSliceElements<Element>;
  constexpr bool kFloats = Tile::kOutput == GemmOutput::kFloats;
  const int32_t m = arguments.number(0), n = arguments.number(1), k = arguments.number(2);
  void* d = arguments.buffer<void>(0);
  GemmSsParams params = {};
  params.d_floats = kFloats ? static_cast<float*>(d) : nullptr;
  params.rows = m;
  params.columns = n;
  params.slices = int32_t(divide_up(k, kDepth));
  Status status = make_matrix_map<Element>(&params.a, arguments.buffer<const void>(1), m, k,
                                           Tile::kRows, kDepth);
  if (!status.ok()) return status;
  status = make_matrix_map<Element>(&params.b, arguments.buffer<const void>(2), n, k,
                                    Tile::kColumns, kDepth);
  if (!status.ok()) return status;
  if (!kFloats) {
    status = make_matrix_map<Element>(&params.d, d, m, n, Warpgroup::kRows, TilePanel::kColumns);
    if (!status.ok()) return status;
  }
  const Dim3 grid = {divide_up(m, Tile::kRows), divide_up(n, Tile::kColumns), 1};
  return launch_kernel("hopper_gemm_ss", gemm_ss_kernel<Tile>, grid, Dim3{Tile::kThreads, 1, 1},
                       sizeof(GemmSsStorage<Tile>), nullptr, params);
}

constexpr GemmOutput kElements = GemmOutput::kElements, kFloats = GemmOutput::kFloats;
const KernelRegistration kRegistrations[] = {
    {"hopper_gemm_bfloat16_n128", gemm<GemmSsTile<bfloat16, 128, kElements>>},
    {"hopper_gemm_bfloat16_n256", gemm<GemmSsTile<bfloat16, 256, kFloats>>},
    {"hopper_gemm_float16_n64", gemm<GemmSsTile<float16, 64, kElements>>},
    {"hopper_gemm_float16_n96", gemm<GemmSsTile<float16, 96, kFloats>>},
    {"hopper_gemm_tf32_n128", gemm<GemmSsTile<float, 128, kFloats>>},
    {"hopper_gemm_tf32_n8", gemm<GemmSsTile<float, 8, kFloats>>},
};

}  // namespace
}  // namespace rnc::reference
