// The float64 products of batch norm in closed form, with or without tensor cores.
#pragma once

#include <type_traits>

#include "kernels/closed_form/epilogues.cuh"
#include "kernels/closed_form/product.cuh"
#include "launch/generations.h"
#include "launch/launch_kernel.h"

namespace rnc {

template <Generation kGeneration, class OperandA, class OperandB, class Epilogue>
Status launch_closed_form_product(const GenerationNames& names, int64_t rows, int64_t columns,
                                  const OperandA& a, const OperandB& b, int32_t depth,
                                  const Epilogue& epilogue, Stream stream) {
  using WarpTile =
      std::conditional_t<kGeneration == Generation::kSimt, DoubleFmaTile, DoubleMmaTile>;
  const ClosedFormProductParams<OperandA, OperandB, Epilogue> params{a, b, depth, epilogue};
  const Dim3 grid{uint32_t(closed_form_tiles(columns)), uint32_t(closed_form_tiles(rows)), 1};
  return launch_kernel(names.of(kGeneration),
                       closed_form_product_kernel<WarpTile, OperandA, OperandB, Epilogue>, grid,
                       Dim3{DoubleTile::kThreads, 1, 1}, sizeof(ClosedFormProductStorage<Epilogue>),
                       stream, params, {}, 1, Start::kEarly);
}

template <class T, class Params>
GradientFactors<AccOf<T>> gradient_factors(const Params& params) {
  return {params.invstd, static_cast<const AccOf<T>*>(params.gamma), params.dgamma_of_all,
          params.sums_of_all, params.rows};
}

template <Generation kGeneration>
Status closed_form_filter_sums_by(DType dtype, const ClosedFormFinalizeParams& params,
                                  Stream stream) {
  constexpr GenerationNames kNames = {"closed_form_finalize_simt_gemm",
                                      "closed_form_finalize_sm80_gemm", nullptr};
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* const weight = static_cast<const T*>(params.weight);
    const bool aligned =
        are_vector_aligned({params.weight, params.sums, params.gram, params.shift});
    const FilterLines<T> filters{weight, params.K, params.C, aligned};
    const Covariance covariance{params.gram, params.sums, nullptr,    params.C,
                                true,        aligned,     params.rows};
    const FilterSums<T> epilogue{weight,      params.K,
                                 params.C,    aligned,
                                 params.sums, static_cast<const AccOf<T>*>(params.shift),
                                 params.rows, params.workspace};
    return launch_closed_form_product<kGeneration>(kNames, params.K, params.C, filters, covariance,
                                                   params.C, epilogue, stream);
  });
}

template <Generation kGeneration>
Status closed_form_filter_gradient_by(DType dtype, const ClosedFormBackwardFinalizeParams& params,
                                      Stream stream) {
  constexpr GenerationNames kNames = {"closed_form_backward_finalize_filters_simt_gemm",
                                      "closed_form_backward_finalize_filters_sm80_gemm", nullptr};
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* const weight = static_cast<const T*>(params.weight);
    const bool aligned =
        are_vector_aligned({params.weight, params.product, params.gram, params.mean}) &&
        are_vector_aligned({params.excess, params.shift, params.dweight, params.of_gradient});
    const FilterLines<T> filters{weight, params.K, params.C, aligned};
    const Covariance covariance{params.gram,
                                params.mean,
                                params.excess,
                                params.C,
                                false,
                                aligned,
                                {params.rows.own, nullptr}};
    const FilterGradient<T> epilogue{weight,
                                     params.K,
                                     params.C,
                                     aligned,
                                     params.product,
                                     params.sums,
                                     params.mean,
                                     params.excess,
                                     params.moments,
                                     static_cast<const AccOf<T>*>(params.shift),
                                     gradient_factors<T>(params),
                                     static_cast<T*>(params.dweight),
                                     static_cast<T*>(params.of_gradient),
                                     params.workspace};
    return launch_closed_form_product<kGeneration>(kNames, params.K, params.C, filters, covariance,
                                                   params.dweight ? params.C : 0, epilogue, stream);
  });
}

template <Generation kGeneration>
Status closed_form_operand_matrix_by(DType dtype, const ClosedFormBackwardFinalizeParams& params,
                                     Stream stream) {
  constexpr GenerationNames kNames = {"closed_form_backward_finalize_operand_simt_gemm",
                                      "closed_form_backward_finalize_operand_sm80_gemm", nullptr};
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* const weight = static_cast<const T*>(params.weight);
    const bool aligned = are_vector_aligned({params.weight, params.of_operand});
    const GradientFactors<AccOf<T>> factors = gradient_factors<T>(params);
    const ChannelLines<T, true> scaled{weight, params.K, params.C, aligned, factors};
    const ChannelLines<T, false> filters{weight, params.K, params.C, aligned, factors};
    // Behind what the filters' gradient leaves.
    const SplitMatrix<T> epilogue{params.C, aligned, params.mean,
                                  static_cast<T*>(params.of_operand),
                                  params.workspace + closed_form_tiles(params.K) * params.C};
    return launch_closed_form_product<kGeneration>(kNames, params.C, params.C, scaled, filters,
                                                   params.K, epilogue, stream);
  });
}

}  // namespace rnc
