// From a plan and its operands to a launch of the implicit GEMM kernel.
#pragma once

#include <initializer_list>

#include "kernels/conv/conv_params.h"
#include "kernels/conv/direct/depthwise.cuh"
#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/conv/packed_filters.cuh"
#include "kernels/conv/simt/mainloop.cuh"
#include "kernels/conv/sm80/few_channels.cuh"
#include "kernels/conv/sm80/gathered.cuh"
#include "kernels/conv/sm80/mainloop.cuh"
#include "launch/launch_kernel.h"
#include "launch/plan.h"

namespace rnc {

// The shape of a pass that is one GEMM. problem: as the GEMM has it.
inline GemmShape gemm_shape(const ConvPlan& plan, ConvOp op, const Conv2dProblem& problem) {
  const bool rows_are_filters = op == ConvOp::kWgrad;
  return {int32_t(problem.gemm_m(op)),
          int32_t(problem.gemm_n(op)),
          int32_t(problem.gemm_k(op)),
          problem.groups,
          plan.splits,
          plan.depth_per_split,
          rows_are_filters ? problem.filters_per_group() : 0,
          rows_are_filters ? 0 : int32_t(problem.gemm_n(op)),
          FastDivmod(int32_t(plan.column_tiles)),
          0,
          plan.diagonal,
          false};
}

template <class Mainloop, class RowPlaces, int kGemms, class Epilogue>
Status launch_gemms(const ConvPlan& plan,
                    const ImplicitGemmParams<Mainloop, RowPlaces, kGemms, Epilogue>& params,
                    int gemms, Stream stream) {
  const Dim3 grid = {uint32_t(plan.grid[0]), uint32_t(plan.grid[1]), uint32_t(gemms)};
  return launch_kernel(plan.kernel, implicit_gemm_kernel<Mainloop, RowPlaces, kGemms, Epilogue>,
                       grid, Dim3{Mainloop::kThreads, 1, 1},
                       sizeof(ImplicitGemmStorage<Mainloop, Epilogue>), stream, params);
}

template <class Mainloop>
struct MainloopTag {
  using type = Mainloop;
};

// Gathering takes any address arithmetic, so it is compiled for the most general operands alone.
template <class Operand>
constexpr bool kSeesWindows = false;
template <class T, class Prologue>
constexpr bool kSeesWindows<WindowRows<T, Prologue>> = true;
template <class Operand>
constexpr bool kSeesWindows<Transposed<Operand>> = kSeesWindows<Operand>;

// Calls launch(MainloopTag<Mainloop>{}) with the main loop that the plan has chosen for such
// operands. kNarrow: the plan was made for narrow tiles, as it must be for prologues with a
// companion.
template <class OperandA, class OperandB, bool kNarrow = OperandA::Prologue::kHasCompanion,
          class Launch>
Status with_mainloop(const ConvPlan& plan, Launch&& launch) {
  if constexpr (sizeof(typename OperandA::Element) == 2 && !kNarrow) {
    if constexpr (kSeesWindows<OperandA> || kSeesWindows<OperandB>) {
      if (plan.path == ConvPath::kGathered) {
        return launch(MainloopTag<Sm80GatheredMainloop<Sm80NarrowTile, OperandA, OperandB>>{});
      }
    }
  }
  if constexpr (kHasMma<typename OperandA::Element>) {
    if (plan.generation == Generation::kSm80) {
      if constexpr (!kNarrow) {
        if (plan.tile_n == Sm80LargeTile::kColumns) {
          return launch(MainloopTag<Sm80Mainloop<Sm80LargeTile, OperandA, OperandB>>{});
        }
      }
      return launch(MainloopTag<Sm80Mainloop<Sm80NarrowTile, OperandA, OperandB>>{});
    }
  }
  return launch(MainloopTag<SimtMainloop<OperandA, OperandB>>{});
}

constexpr Status kNoDepthwiseOnLoad = {
    "batch norm's backward is not applied on load by depthwise convolutions: store the gradient"};

// The same for windows of an image and filters, which grouped convolutions take in ways of their
// own.
template <class Window, class Filter, class PackedFilter, class Launch>
Status with_window_mainloop(const ConvPlan& plan, Launch&& launch) {
  if (plan.path == ConvPath::kDepthwise) {
    if constexpr (Window::Prologue::kHasCompanion) {
      return kNoDepthwiseOnLoad;
    } else {
      return launch(MainloopTag<DepthwiseMainloop<Window, Filter>>{});
    }
  }
  if constexpr (sizeof(typename Window::Element) == 2) {
    if (plan.path == ConvPath::kGrouped) {
      return launch(MainloopTag<Sm80Mainloop<Sm80PackedPixelsTile, Window, PackedFilter>>{});
    }
  }
  return with_mainloop<Window, Filter>(plan, launch);
}

// A pass that is one GEMM, by one main loop.
template <class Mainloop, class Epilogue>
Status launch_gemm(const ConvPlan& plan, const GemmShape& shape,
                   const typename Mainloop::Params& operands, const Epilogue& epilogue,
                   Stream stream) {
  const ImplicitGemmParams<Mainloop, DenseRows, 1, Epilogue> params{{{shape, operands, {}}},
                                                                    epilogue};
  return launch_gemms(plan, params, 1, stream);
}

// The same by the main loop that the plan has chosen.
template <class OperandA, class OperandB, class Epilogue>
Status launch_implicit_gemm(const ConvPlan& plan, ConvOp op, const Conv2dProblem& problem,
                            const OperandA& a, const OperandB& b, const Epilogue& epilogue,
                            Stream stream) {
  return with_mainloop<OperandA, OperandB>(plan, [&](auto tag) {
    using Mainloop = typename decltype(tag)::type;
    return launch_gemm<Mainloop>(plan, gemm_shape(plan, op, problem), {a, b}, epilogue, stream);
  });
}

// Calls launch(prologue) with what turns a gradient of T as it is stored into the one to multiply.
template <class T, class Launch>
Status with_gradient_prologue(const BnBackwardOnLoad& on_load, int32_t K, Launch&& launch) {
  using Acc = AccOf<T>;
  if (!on_load.y) return launch(Identity<T>{});
  return launch(BnBackward<T>{
      static_cast<const T*>(on_load.y), static_cast<const Acc*>(on_load.coefficients),
      static_cast<const Acc*>(on_load.gate_scale), static_cast<const Acc*>(on_load.gate_bias), K});
}

// The same for an activation.
template <class T, class Launch>
Status with_activation_prologue(const void* scale, const void* bias, const void* floor,
                                Launch&& launch) {
  using Acc = AccOf<T>;
  if (!scale) return launch(Identity<T>{});
  return launch(ScaleBiasRelu<T>{static_cast<const Acc*>(scale), static_cast<const Acc*>(bias),
                                 static_cast<const Acc*>(floor)});
}

// What normalises x of a pass on load; off where it has no scale.
template <class T, class Params>
ScaleBiasRelu<T> activation_on_load(const Params& params) {
  using Acc = AccOf<T>;
  return {static_cast<const Acc*>(params.x_scale), static_cast<const Acc*>(params.x_bias),
          static_cast<const Acc*>(params.x_floor)};
}

inline bool are_vector_aligned(std::initializer_list<const void*> tensors) {
  for (const void* tensor : tensors) {
    if (!is_vector_aligned(tensor)) return false;
  }
  return true;
}

// Whether the epilogue's pieces of 8 columns are whole vectors in every row of a matrix that starts
// at each of `tensors` (null: absent) and of which a group has `group_columns` columns.
template <class T>
bool pieces_are_vectors(std::initializer_list<const void*> tensors, int64_t row_stride,
                        int64_t group_columns) {
  return are_vector_aligned(tensors) && rows_are_vectors<T>(row_stride) &&
         rows_are_vectors<T>(group_columns);
}

}  // namespace rnc
