// D[m, n] = A[m, k] B[n, k]^T on mma.sync. bfloat16, float16 and tf32 (stored as float) give float,
// fp64 gives fp64. Rows of all matrices are multiples of 16 bytes.
#include "../arguments.h"
#include "implicit_gemm.cuh"
#include "launch/launch_kernel.h"
#include "operands.cuh"

namespace rnc::reference {
namespace {

// buffers: d, a, b; numbers: m, n, k
template <ptx::Mma kMma, class Element, class Output, int kTileColumns>
Status gemm(const LaunchArguments& arguments) {
  using Tile = AmpereTile<kMma, Element, Output, kTileColumns>;
  using Operand = MatrixRows<Element>;
  const int32_t m = arguments.number(0), n = arguments.number(1), k = arguments.number(2);
  const AmpereGemmParams<Tile, Operand, Operand> params = {
      {arguments.buffer<const Element>(1), m, k},
      {arguments.buffer<const Element>(2), n, k},
      arguments.buffer<Output>(0),
      m,
      n,
      int32_t(divide_up(k, Tile::kSliceElements))};
  const Dim3 grid = {divide_up(m, Tile::kRows), divide_up(n, Tile::kColumns), 1};
  return launch_kernel("ampere_gemm", ampere_gemm_kernel<Tile, Operand, Operand>, grid,
                       Dim3{Tile::kThreads, 1, 1}, sizeof(AmpereStorage<Tile>), nullptr, params);
}

const KernelRegistration kRegistrations[] = {
    {"ampere_gemm_bfloat16", gemm<ptx::Mma::kM16N8K16Bfloat16, bfloat16, float, 128>},
    {"ampere_gemm_float16", gemm<ptx::Mma::kM16N8K16Float16, float16, float, 128>},
    {"ampere_gemm_tf32", gemm<ptx::Mma::kM16N8K8TensorFloat32, float, float, 128>},
    {"ampere_gemm_float64", gemm<ptx::Mma::kM8N8K4Float64, double, double, 64>},
};

}  // namespace
}  // namespace rnc::reference
