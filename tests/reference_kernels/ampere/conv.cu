// y[n, p, q, k] = convolution of x[n, h, w, c] with weight[k, r, s, c], rounded to 16 bits, as an
// implicit GEMM on mma.sync. c and k are multiples of 8; any stride, padding and dilation.
#include "../arguments.h"
#include "implicit_gemm.cuh"
#include "launch/launch_kernel.h"
#include "operands.cuh"

namespace rnc::reference {
namespace {

// buffers: y, x, weight; numbers: the problem
template <ptx::Mma kMma, class Element>
Status conv(const LaunchArguments& arguments) {
  using Tile = AmpereTile<kMma, Element, Element, 128>;
  using Pixels = Im2colPixels<Element>;
  using Filters = FilterTaps<Element>;
  const Conv2dProblem problem = read_conv_problem(arguments);
  const AmpereGemmParams<Tile, Pixels, Filters> params = {
      Pixels(arguments.buffer<const Element>(1), problem, Tile::kSliceElements),
      Filters(arguments.buffer<const Element>(2), problem, Tile::kSliceElements),
      arguments.buffer<Element>(0),
      int32_t(problem.output_pixels()),
      problem.K,
      problem.R * problem.S * int32_t(divide_up(problem.C, Tile::kSliceElements))};
  const Dim3 grid = {divide_up(params.rows, Tile::kRows), divide_up(params.columns, Tile::kColumns),
                     1};
  return launch_kernel("ampere_conv", ampere_gemm_kernel<Tile, Pixels, Filters>, grid,
                       Dim3{Tile::kThreads, 1, 1}, sizeof(AmpereStorage<Tile>), nullptr, params);
}

const KernelRegistration kRegistrations[] = {
    {"ampere_conv_bfloat16", conv<ptx::Mma::kM16N8K16Bfloat16, bfloat16>},
    {"ampere_conv_float16", conv<ptx::Mma::kM16N8K16Float16, float16>},
};

}  // namespace
}  // namespace rnc::reference
