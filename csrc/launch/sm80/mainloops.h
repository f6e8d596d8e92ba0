// Which main loop for Ampere's tensor cores a plan means.
#pragma once

#include "kernels/conv/packed_filters.cuh"
#include "kernels/conv/sm80/few_channels.cuh"
#include "kernels/conv/sm80/gathered.cuh"
#include "kernels/conv/sm80/mainloop.cuh"
#include "kernels/conv/sm80/row_sums.cuh"
#include "launch/implicit_gemm.h"

namespace rnc {

// Gathering takes any address arithmetic, so it is compiled for the most general operands alone.
template <class Operand>
constexpr bool kSeesWindows = false;
template <class T, class Prologue>
constexpr bool kSeesWindows<WindowRows<T, Prologue>> = true;
template <class Operand>
constexpr bool kSeesWindows<Transposed<Operand>> = kSeesWindows<Operand>;

template <>
struct Mainloops<Generation::kSm80> {
  template <class T, bool kAlongDepth>
  static constexpr bool kMultiplies = kHasMma<T>;

  // Calls launch(MainloopTag<Mainloop, OperandB>{}).
  template <class OperandA, class OperandB, TileRoom kRoom = TileRoom(), class Launch>
  static Status of_operands(const ConvPlan& plan, Launch&& launch) {
    // The plan was made for narrow tiles.
    constexpr bool kNarrow = kRoom.second_gemm || OperandA::Prologue::kHasCompanion;
    if constexpr (sizeof(typename OperandA::Element) == 2 && !kNarrow) {
      if constexpr (kSeesWindows<OperandA> || kSeesWindows<OperandB>) {
        if (plan.path == ConvPath::kGathered) {
          return launch(
              MainloopTag<Sm80GatheredMainloop<Sm80NarrowTile, OperandA, OperandB>, OperandB>{});
        }
      }
    }
    if constexpr (!kNarrow) {
      if (plan.tile_n == Sm80LargeTile::kColumns) {
        return launch(MainloopTag<Sm80Mainloop<Sm80LargeTile, OperandA, OperandB>, OperandB>{});
      }
    }
    return launch(MainloopTag<Sm80Mainloop<Sm80NarrowTile, OperandA, OperandB>, OperandB>{});
  }

  // The same for windows of an image and filters; what else such a main loop has to know of the
  // problem is a second argument.
  template <class Window, class Filter, class PackedFilter, TileRoom kRoom = TileRoom(),
            class Launch>
  static Status of_windows(const ConvPlan& plan, const Conv2dProblem& problem, Launch&& launch) {
    using T = typename Window::Element;
    if constexpr (sizeof(T) == 2) {
      if (plan.path == ConvPath::kGrouped) {
        return launch(
            MainloopTag<Sm80Mainloop<Sm80PackedPixelsTile, Window, PackedFilter>, PackedFilter>{});
      }
    }
    if constexpr (sizeof(T) == 2 && std::is_same_v<Window, WindowRows<T, Identity<T>>> &&
                  std::is_same_v<Filter, FilterRows<T>>) {
      if (plan.path == ConvPath::kFewChannels) {
        return launch(MainloopTag<Sm80FewChannelsMainloop<Sm80NarrowTile, T>, Filter>{},
                      PixelRuns(problem, Sm80NarrowTile::kRows, problem.Q));
      }
    }
    return of_operands<Window, Filter, kRoom>(plan, launch);
  }

  // The same for wgrad, of an activation that is seen through windows.
  template <class Gradient, class Activation, class Launch>
  static Status of_wgrad_windows(const ConvPlan& plan, Launch&& launch) {
    if constexpr (sizeof(typename Gradient::Element) == 2) {
      if (plan.path == ConvPath::kGrouped) {
        return launch(
            MainloopTag<Sm80Mainloop<Sm80PackedFiltersTile, Gradient, Activation>, Activation>{});
      }
    }
    return of_operands<Gradient, Activation>(plan, launch);
  }

  // The same of one that also sums A's rows.
  template <class OperandA, class OperandB, class Launch>
  static Status with_row_sums(const ConvPlan& plan, Launch&& launch) {
    if constexpr (!std::is_same_v<OperandA, OperandB>) {
      return launch(
          MainloopTag<Sm80RowSumsMainloop<Sm80NarrowTile, OperandA, OperandB>, OperandB>{});
    } else if (plan.tile_n == Sm80SmallTile::kColumns) {
      return launch(
          MainloopTag<Sm80RowSumsMainloop<Sm80SmallTile, OperandA, OperandB>, OperandB>{});
    } else {
      return launch(
          MainloopTag<Sm80RowSumsMainloop<Sm80LargeTile, OperandA, OperandB>, OperandB>{});
    }
  }
};

}  // namespace rnc
