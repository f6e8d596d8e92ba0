// The SIMT main loop that also sums the rows of A.
#pragma once

#include <type_traits>

#include "kernels/conv/simt/mainloop.cuh"

namespace rnc {

// Where B is A, as of a Gram matrix, a tile on the diagonal loads it once.
template <class OperandA, class OperandB>
struct SimtRowSumsMainloop : SimtMainloop<OperandA, OperandB> {
  using Mainloop = SimtMainloop<OperandA, OperandB>;
  using typename Mainloop::Acc;
  using Rows = RowsWithSums<typename Mainloop::Rows, Acc>;
  static_assert(Mainloop::kRows == kStatsTileRows, "the tile has one part");

  double row_sum;  // of the thread's row: an addition per step, which may as well be exact

  __device__ __forceinline__ void run(const typename Mainloop::Params& params, const GemmTile& at,
                                      typename Mainloop::Storage& shared) {
    this->tile.clear();
    row_sum = 0;
    const bool b_is_a = std::is_same_v<OperandA, OperandB> && at.first_row == at.first_column;
    Mainloop::accumulate(*this, params, at, shared, b_is_a, [&](const auto& a) {
      if (!has_row()) return;
      Acc step = Acc(0);
      RNC_UNROLL
      for (int k = 0; k < SimtTile::kDepth; ++k) step += a[k][threadIdx.x];
      row_sum += double(step);
    });
  }

  __device__ __forceinline__ void stage(int part, Rows& rows) const {
    Mainloop::stage(part, rows);
    if (has_row()) rows.sums[threadIdx.x] = Acc(row_sum);
  }

 private:
  static __device__ __forceinline__ bool has_row() { return threadIdx.x < Mainloop::kRows; }
};

}  // namespace rnc
