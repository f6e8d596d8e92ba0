// y[n, p, q, k] = convolution of x[n, h, w, c] with weight[k, r, s, c], rounded to 16 bits, as an
// implicit GEMM on mma.sync. c and k are multiples of 8; any stride, padding and dilation.
#include "ampere/implicit_gemm.cuh"
#include "ampere/operands.cuh"
#include "api.h"
#include "launch/launch_kernel.h"

namespace rnc::reference {
namespace {

template <ptx::Mma kMma, class Element>
Status conv(const void* x, const void* weight, void* y, const Conv2dProblem& problem) {
  using Tile = AmpereTile<kMma, Element, Element>;
  using Params = AmpereGemmParams<Tile, Im2colPixels<Element>, FilterTaps<Element>>;
  const int32_t pieces = (problem.C + Tile::kSliceElements - 1) / Tile::kSliceElements;
  const Params params = {
      Im2colPixels<Element>(static_cast<const Element*>(x), problem, Tile::kSliceElements),
      FilterTaps<Element>(static_cast<const Element*>(weight), problem, Tile::kSliceElements),
      static_cast<Element*>(y),
      int32_t(problem.output_pixels()),
      problem.K,
      problem.R * problem.S * pieces};
  const Dim3 grid = {uint32_t(params.rows + Tile::kRows - 1) / Tile::kRows,
                     uint32_t(params.columns + Tile::kColumns - 1) / Tile::kColumns, 1};
  return launch_kernel("ampere_conv",
                       ampere_gemm_kernel<Tile, Im2colPixels<Element>, FilterTaps<Element>>, grid,
                       Dim3{Tile::kThreads, 1, 1}, sizeof(AmpereStorage<Tile>), nullptr, params);
}

}  // namespace
}  // namespace rnc::reference

RNC_REFERENCE_API rnc_ampere_conv_bfloat16(const void* x, const void* weight, void* y,
                                           const rnc::Conv2dProblem* problem) {
  using namespace rnc;
  return reference::conv<ptx::Mma::kM16N8K16Bfloat16, bfloat16>(x, weight, y, *problem).error;
}

RNC_REFERENCE_API rnc_ampere_conv_float16(const void* x, const void* weight, void* y,
                                          const rnc::Conv2dProblem* problem) {
  using namespace rnc;
  return reference::conv<ptx::Mma::kM16N8K16Float16, float16>(x, weight, y, *problem).error;
}
