// The kernels of the convolution's gradient for its input, with the main loops of any generation.
#pragma once

#include <algorithm>

#include "kernels/conv/packed_filters.cuh"
#include "launch/implicit_gemm.h"

namespace rnc {
namespace conv_dgrad_kernels {

// Up to four classes of rows in one launch: strides up to 2.
constexpr int kClassesPerLaunch = 4;

// The rows that see the same taps are a GEMM of their own, so that no product with a hole between
// strided outputs is computed.
template <class Mainloop, class Filter, class T, class Prologue, class Epilogue>
Status launch_classes(const ConvPlan& plan, const ConvDgradParams& params, const Prologue& prologue,
                      const Epilogue& epilogue, Stream stream) {
  const Conv2dProblem p = gemm_problem(plan, params.problem);
  using Gemm = ImplicitGemm<Mainloop, StridedRows>;
  const int32_t classes = GradientClass::count(p);
  int64_t first_tile_row = 0;
  for (int32_t first = 0; first < classes; first += kClassesPerLaunch) {
    const int32_t count = std::min(kClassesPerLaunch, classes - first);
    const auto gemm_of = [&](int32_t index) {
      const GradientClass at(p, first + std::min(index, count - 1));
      GemmShape shape = gemm_shape(plan, ConvOp::kDgrad, p);
      shape.rows = int32_t(at.rows(p));
      shape.depth = int32_t(at.taps() * p.filters_per_group());
      shape.depth_per_split = shape.depth;
      shape.first_tile_row = int32_t(first_tile_row);
      if (index < count) first_tile_row += stats_tiles(shape.rows);
      return Gemm{shape,
                  {WindowRows<T, Prologue>::of_gradient(params.dy, prologue, at, p),
                   Filter(params.weight, at, params.problem)},
                  {p.H, p.W, p.stride_h, p.stride_w, at.residue_h, at.residue_w,
                   FastDivmod(at.w.window.positions), FastDivmod(at.h.window.positions)}};
    };
    const ImplicitGemmParams<Mainloop, StridedRows, kClassesPerLaunch, Epilogue> kernel_params{
        {gemm_of(0), gemm_of(1), gemm_of(2), gemm_of(3)}, epilogue};
    const Status status = launch_gemms(plan, kernel_params, count, stream);
    if (!status.ok()) return status;
  }
  return Status{};
}

template <Generation kGeneration, class T, class Prologue, class Epilogue>
Status launch(const ConvPlan& plan, const ConvDgradParams& params, const Prologue& prologue,
              const Epilogue& epilogue, Stream stream) {
  const Conv2dProblem& problem = params.problem;
  if (plan.path == ConvPath::kGemm) {
    const auto gradient = PixelRows<T, Prologue>::of_output(params.dy, prologue, problem);
    const FilterColumns<T> filter(params.weight, GradientClass(problem, 0), problem);
    return launch_implicit_gemm<kGeneration>(plan, ConvOp::kDgrad, problem, gradient, filter,
                                             epilogue, stream);
  }
  using Window = WindowRows<T, Prologue>;
  using Filter = FilterColumns<T>;
  using Packed = PackedFilterColumns<T>;
  return Mainloops<kGeneration>::template of_windows<Window, Filter, Packed, kRoomOf<Epilogue>>(
      plan, problem, [&](auto tag) {
        using Mainloop = typename decltype(tag)::type;
        using B = typename decltype(tag)::B;
        if constexpr (OrdersRows<Mainloop>) {  // of convolutions without stride: one class
          const GradientClass all(problem, 0);
          return launch_gemm<Mainloop>(plan, gemm_shape(plan, ConvOp::kDgrad, problem),
                                       {Window::of_gradient(params.dy, prologue, all, problem),
                                        B(params.weight, all, problem)},
                                       epilogue, stream);
        } else {
          return launch_classes<Mainloop, B, T>(plan, params, prologue, epilogue, stream);
        }
      });
}

template <Generation kGeneration, class T, class Epilogue>
Status launch(const ConvPlan& plan, const ConvDgradParams& params, const Epilogue& epilogue,
              Stream stream) {
  return with_gradient_prologue<T>(params.on_load, params.problem.K, [&](const auto& prologue) {
    return launch<kGeneration, T>(plan, params, prologue, epilogue, stream);
  });
}

}  // namespace conv_dgrad_kernels

template <Generation kGeneration>
Status conv_dgrad_by(const ConvPlan& plan, DType dtype, const ConvDgradParams& params,
                     Stream stream) {
  return with_element_type<kGeneration>(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    const bool aligned =
        pieces_are_vectors<T>({params.dx, params.addend, params.act, params.act_scale,
                               params.act_bias, params.act_mean},
                              params.problem.C,
                              gemm_problem(plan, params.problem).channels_per_group()) &&
        rows_are_vectors<T>(params.addend_C);
    const AddGateStore<T> gate{
        static_cast<T*>(params.dx),
        BranchGradient<T>::of(params.addend, params.addend_mask, params.addend_C, params.problem.H,
                              params.problem.W, params.addend_stride),
        static_cast<const T*>(params.act),
        static_cast<const Acc*>(params.act_scale),
        static_cast<const Acc*>(params.act_bias),
        params.problem.C,
        aligned};
    if (params.partials) {
      const AddGateStoreWithBnReduce<T> epilogue{gate, static_cast<const Acc*>(params.act_mean),
                                                 static_cast<Acc*>(params.partials)};
      return conv_dgrad_kernels::launch<kGeneration, T>(plan, params, epilogue, stream);
    }
    return conv_dgrad_kernels::launch<kGeneration, T>(plan, params, gate, stream);
  });
}

}  // namespace rnc
