// D[m, n] = A[m, k] B[n, k]^T on mma.sync. bfloat16, float16 and tf32 (float storage) give float,
// fp64 gives fp64. k and n are multiples of 16 bytes.
#include "ampere/implicit_gemm.cuh"
#include "ampere/operands.cuh"
#include "api.h"
#include "launch/launch_kernel.h"

namespace rnc::reference {
namespace {

template <ptx::Mma kMma, class Element, class Output>
Status gemm(const void* a, const void* b, void* d, int32_t m, int32_t n, int32_t k) {
  using Tile = AmpereTile<kMma, Element, Output>;
  using Operand = MatrixRows<Element>;
  const AmpereGemmParams<Tile, Operand, Operand> params = {
      {static_cast<const Element*>(a), m, k},
      {static_cast<const Element*>(b), n, k},
      static_cast<Output*>(d),
      m,
      n,
      (k + Tile::kSliceElements - 1) / Tile::kSliceElements};
  const Dim3 grid = {uint32_t(m + Tile::kRows - 1) / Tile::kRows,
                     uint32_t(n + Tile::kColumns - 1) / Tile::kColumns, 1};
  return launch_kernel("ampere_gemm", ampere_gemm_kernel<Tile, Operand, Operand>, grid,
                       Dim3{Tile::kThreads, 1, 1}, sizeof(AmpereStorage<Tile>), nullptr, params);
}

}  // namespace
}  // namespace rnc::reference

RNC_REFERENCE_API rnc_ampere_gemm_bfloat16(const void* a, const void* b, void* d, int32_t m,
                                           int32_t n, int32_t k) {
  using namespace rnc;
  return reference::gemm<ptx::Mma::kM16N8K16Bfloat16, bfloat16, float>(a, b, d, m, n, k).error;
}

RNC_REFERENCE_API rnc_ampere_gemm_float16(const void* a, const void* b, void* d, int32_t m,
                                          int32_t n, int32_t k) {
  using namespace rnc;
  return reference::gemm<ptx::Mma::kM16N8K16Float16, float16, float>(a, b, d, m, n, k).error;
}

RNC_REFERENCE_API rnc_ampere_gemm_tf32(const void* a, const void* b, void* d, int32_t m, int32_t n,
                                       int32_t k) {
  using namespace rnc;
  return reference::gemm<ptx::Mma::kM16N8K8TensorFloat32, float, float>(a, b, d, m, n, k).error;
}

RNC_REFERENCE_API rnc_ampere_gemm_float64(const void* a, const void* b, void* d, int32_t m,
                                          int32_t n, int32_t k) {
  using namespace rnc;
  return reference::gemm<ptx::Mma::kM8N8K4Float64, double, double>(a, b, d, m, n, k).error;
}
