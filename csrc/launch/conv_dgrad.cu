#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"

namespace rnc {
namespace {

template <class T, class Epilogue>
Status launch(const ConvPlan& plan, const ConvDgradParams& params, const Epilogue& epilogue,
              Stream stream) {
  const Conv2dProblem& problem = params.problem;
  const FilterColumns<T> filter(params.weight, problem);
  if (plan.pointwise) {
    const auto gradient = PixelRows<T, Identity<T>>::of_output(params.dy, problem);
    return launch_implicit_gemm(plan, ConvOp::kDgrad, problem, gradient, filter, epilogue, stream);
  }
  const Im2colGradient<T> gradient(params.dy, problem);
  return launch_implicit_gemm(plan, ConvOp::kDgrad, problem, gradient, filter, epilogue, stream);
}

}  // namespace

Status conv_dgrad(DType dtype, const ConvDgradParams& params, Stream stream) {
  const ConvPlan plan = plan_conv(ConvOp::kDgrad, params.problem, dtype,
                                  are_vector_aligned({params.dy, params.weight}));
  if (plan.error) return {plan.error};
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    const bool aligned =
        pieces_are_vectors<T>({params.dx, params.addend, params.act}, params.problem.C,
                              params.problem.channels_per_group());
    const AddGateStore<T> gate{static_cast<T*>(params.dx),
                               static_cast<const T*>(params.addend),
                               static_cast<const T*>(params.act),
                               static_cast<const Acc*>(params.act_scale),
                               static_cast<const Acc*>(params.act_bias),
                               params.problem.C,
                               aligned};
    if (params.partials) {
      const AddGateStoreWithBnReduce<T> epilogue{gate, static_cast<const Acc*>(params.act_mean),
                                                 static_cast<Acc*>(params.partials)};
      return launch<T>(plan, params, epilogue, stream);
    }
    return launch<T>(plan, params, gate, stream);
  });
}

}  // namespace rnc
