// The kernels that multiply two matrices over the same pixels, in parts, with the main loops of any
// generation.
#pragma once

#include "launch/implicit_gemm.h"

namespace rnc {

// The parts of a^T b and of the sums of a's columns, a [pixels, K] and b [pixels, C], into the
// workspace, Acc [splits][K C + K].
template <Generation kGeneration, class T, class Rows, class Columns>
Status multiply_pixels(const ConvPlan& plan, const Conv2dProblem& problem, const Rows& a,
                       const Columns& b, void* workspace, Stream stream) {
  using Acc = AccOf<T>;
  constexpr bool kIsGram = std::is_same_v<Rows, Columns>;
  const int64_t size = problem.weight_size();
  Acc* parts = static_cast<Acc*>(workspace);
  const StorePartialWithRowSums<T> epilogue{
      {parts, size + problem.K, problem.C, pieces_are_vectors<Acc>({parts}, problem.C, problem.C)},
      parts + size,
      kIsGram};
  using A = Transposed<Rows>;
  using B = Transposed<Columns>;
  return Mainloops<kGeneration>::template with_row_sums<A, B>(plan, [&](auto tag) {
    using Mainloop = typename decltype(tag)::type;
    GemmShape shape = gemm_shape(plan, ConvOp::kWgrad, problem);
    shape.symmetric = kIsGram;
    return launch_gemm<Mainloop>(plan, shape, {A(a), B(b)}, epilogue, stream);
  });
}

template <Generation kGeneration>
Status bottleneck_gram_by(const ConvPlan& plan, DType dtype, const BottleneckGramParams& params,
                          Stream stream) {
  const Conv2dProblem& problem = params.problem;
  return with_element_type<kGeneration>(dtype, [&](auto type) {
    using T = decltype(type);
    const auto pixels =
        PixelRows<T, ScaleBiasRelu<T>>::of_input(params.x, activation_on_load<T>(params), problem);
    return multiply_pixels<kGeneration, T>(plan, problem, pixels, pixels, params.workspace, stream);
  });
}

template <Generation kGeneration>
Status bottleneck_expand_wgrad_by(const ConvPlan& plan, DType dtype,
                                  const BottleneckExpandWgradParams& params, Stream stream) {
  const Conv2dProblem& problem = params.problem;
  return with_element_type<kGeneration>(dtype, [&](auto type) {
    using T = decltype(type);
    const BitGate<T> gate{params.mask, problem.y_size() / 8};
    return multiply_pixels<kGeneration, T>(
        plan, problem, PixelRows<T, BitGate<T>>::of_output(params.dz, gate, problem),
        PixelRows<T, ScaleBiasRelu<T>>::of_input(params.x, activation_on_load<T>(params), problem),
        params.workspace, stream);
  });
}

}  // namespace rnc
