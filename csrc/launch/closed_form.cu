#include "kernels/closed_form/vectors.cuh"
#include "launch/generations.h"
#include "launch/launch_kernel.h"

namespace rnc {
namespace {

// Float64 has tensor cores from sm_80 on, and none that are newer.
template <class Launch>
Status with_double_products(Launch&& launch) {
  constexpr int32_t kSm80Capability = 80;
  if (current_device().capability < kSm80Capability) {
    return launch(GenerationTag<Generation::kSimt>{});
  }
  return launch(GenerationTag<Generation::kSm80>{});
}

template <class Params>
Status launch_vectors(const char* name, void (*kernel)(Params), int64_t blocks,
                      const Params& params, Stream stream) {
  return launch_kernel(name, kernel, Dim3{uint32_t(blocks), 1, 1}, Dim3{kClosedFormThreads, 1, 1},
                       0, stream, params, {}, 1, Start::kEarly);
}

int64_t blocks_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

}  // namespace

Status closed_form_finalize(DType dtype, const ClosedFormFinalizeParams& params, Stream stream) {
  // Multiply, and sum by filter.
  const Status status = with_double_products([&](auto generation) {
    return closed_form_filter_sums_by<generation>(dtype, params, stream);
  });
  if (!status.ok()) return status;

  // Normalise by what the sums say.
  return visit_dtype(dtype, [&](auto type) {
    using Acc = AccOf<decltype(type)>;
    const ClosedFormStatisticsParams<Acc> kernel_params{params.K,
                                                        params.C,
                                                        int32_t(closed_form_tiles(params.C)),
                                                        params.workspace,
                                                        params.sums,
                                                        params.own_sums,
                                                        params.rows,
                                                        static_cast<const Acc*>(params.gamma),
                                                        static_cast<const Acc*>(params.beta),
                                                        static_cast<Acc*>(params.running_mean),
                                                        static_cast<Acc*>(params.running_var),
                                                        params.momentum,
                                                        params.eps,
                                                        params.mean,
                                                        params.excess,
                                                        params.output_mean,
                                                        params.invstd,
                                                        static_cast<Acc*>(params.scale),
                                                        static_cast<Acc*>(params.bias)};
    return launch_vectors("closed_form_finalize_statistics", closed_form_statistics_kernel<Acc>,
                          blocks_of(params.K > params.C ? params.K : params.C, kClosedFormThreads),
                          kernel_params, stream);
  });
}

Status closed_form_backward_reduce(DType dtype, const ClosedFormBackwardReduceParams& params,
                                   Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const bool aligned =
        are_vector_aligned({params.weight, params.product, params.mean, params.excess});
    const ClosedFormBackwardReduceKernelParams<T> kernel_params{
        params.K,       params.C,      aligned,       static_cast<const T*>(params.weight),
        params.product, params.sums,   params.mean,   params.excess,
        params.invstd,  params.dgamma, params.moments};
    return launch_vectors("closed_form_backward_reduce", closed_form_backward_reduce_kernel<T>,
                          blocks_of(params.K, kClosedFormFilters), kernel_params, stream);
  });
}

Status closed_form_backward_finalize(DType dtype, const ClosedFormBackwardFinalizeParams& params,
                                     Stream stream) {
  // Multiply for the filters' gradient, and scale them for the input's.
  const Status of_filters = with_double_products([&](auto generation) {
    return closed_form_filter_gradient_by<generation>(dtype, params, stream);
  });
  if (!of_filters.ok() || !params.of_gradient) return of_filters;

  // Multiply for the input's gradient.
  const Status of_operand = with_double_products([&](auto generation) {
    return closed_form_operand_matrix_by<generation>(dtype, params, stream);
  });
  if (!of_operand.ok()) return of_operand;

  // Sum the constant.
  return visit_dtype(dtype, [&](auto type) {
    using Acc = AccOf<decltype(type)>;
    const int64_t tiles = closed_form_tiles(params.K) + closed_form_tiles(params.C);
    const ClosedFormConstantParams<Acc> kernel_params{params.C, int32_t(tiles), params.workspace,
                                                      static_cast<Acc*>(params.constant)};
    return launch_vectors("closed_form_backward_finalize_constant",
                          closed_form_constant_kernel<Acc>, blocks_of(params.C, kClosedFormThreads),
                          kernel_params, stream);
  });
}

}  // namespace rnc
