// The SIMT main loop: a 64 x 64 tile of an implicit GEMM, 16 deep per step, operands widened to the
// accumulator type in shared memory. The next step's elements are fetched into registers while this
// step's are multiplied.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/operands.cuh"
#include "tile/row_pieces.cuh"
#include "tile/simt_tile.cuh"

namespace rnc {

template <class Acc>
struct SimtMainloopStorage {
  // Two columns of padding: lanes that store down a column (depth-contiguous operands) hit
  // different banks.
  static constexpr int kPadding = 2;
  Acc a[SimtTile::kDepth][SimtTile::kRows + kPadding];
  Acc b[SimtTile::kDepth][SimtTile::kColumns + kPadding];
};

// One operand's share of the loads: 4 elements per thread and step, neighbouring lanes along the
// operand's contiguous index.
template <class Operand>
struct SimtOperandLoader {
  using Acc = AccOf<typename Operand::Element>;
  static constexpr int kElements = SimtTile::kRows * SimtTile::kDepth / SimtTile::kThreads;
  static constexpr bool kAlongDepth = Operand::kDepthIsContiguous;
  static constexpr int kLanes =
      kAlongDepth ? SimtTile::kDepth : SimtTile::kRows;      // threads along the contiguous index
  static constexpr int kStep = SimtTile::kThreads / kLanes;  // and along the other one
  static_assert(SimtTile::kThreads % kLanes == 0 &&
                (kAlongDepth ? SimtTile::kRows : SimtTile::kDepth) % kStep == 0);
  static constexpr int kRowsHeld = kAlongDepth ? kElements : 1;

  const Operand& operand;
  int32_t group;
  typename Operand::Row rows[kRowsHeld];
  Acc fetched[kElements];

  // Finds the rows this thread will load, once for all steps.
  __device__ __forceinline__ SimtOperandLoader(const Operand& operand, int32_t first_row,
                                               int32_t row_count, int32_t group)
      : operand(operand), group(group) {
    RNC_UNROLL
    for (int e = 0; e < kRowsHeld; ++e)
      rows[e] = operand.row(first_row + row_in_tile(e), row_count, group);
  }

  static __device__ __forceinline__ int row_in_tile(int e) {
    return kAlongDepth ? int(threadIdx.x) / kLanes + e * kStep : int(threadIdx.x) % kLanes;
  }
  static __device__ __forceinline__ int depth_in_tile(int e) {
    return kAlongDepth ? int(threadIdx.x) % kLanes : int(threadIdx.x) / kLanes + e * kStep;
  }

  __device__ __forceinline__ void fetch(int32_t first_depth, int32_t depth_end) {
    typename Operand::Depth depth;
    RNC_UNROLL
    for (int e = 0; e < kElements; ++e) {
      if (!kAlongDepth || e == 0)
        depth = operand.depth(first_depth + depth_in_tile(e), depth_end, group);
      const typename Operand::Row& row = rows[kAlongDepth ? e : 0];
      const auto* element = operand.find(row, depth);
      fetched[e] = element ? read(element, channel_of(operand, row, depth, group)) : Acc(0);
    }
  }

  __device__ __forceinline__ void put(
      Acc (&shared)[SimtTile::kDepth][SimtTile::kRows + SimtMainloopStorage<Acc>::kPadding]) const {
    RNC_UNROLL
    for (int e = 0; e < kElements; ++e) shared[depth_in_tile(e)][row_in_tile(e)] = fetched[e];
  }

 private:
  __device__ __forceinline__ Acc read(const typename Operand::Element* element,
                                      int32_t channel) const {
    const auto& prologue = operand.prologue;
    const auto value = ptx::load_global_nc(element);
    if constexpr (Operand::Prologue::kHasBits) {
      return prologue.apply(value, element - operand.base());
    } else if constexpr (Operand::Prologue::kHasCompanion) {
      const auto* companion = companion_of(operand, element);
      return prologue.apply(value, ptx::load_global_nc(companion), channel);
    } else {
      return prologue.apply(Acc(widen(value)), channel);
    }
  }
};

// The accumulators of a block, whatever is multiplied.
template <class AccType>
struct SimtBlockTile {
  using Acc = AccType;
  static constexpr int kThreads = SimtTile::kThreads;
  static constexpr int kBlocks = sizeof(Acc) == 8 ? 1 : 2;  // on a multiprocessor, as in sm80
  static constexpr int kRows = SimtTile::kRows;
  static constexpr int kColumns = SimtTile::kColumns;
  static constexpr bool kPacksGroups = false;
  // A warp stages two rows of 16 neighbouring columns at a time.
  using Rows = StagedRows<Acc, kColumns, 16>;

  ThreadTile<Acc> tile;

  // Calls fn(column, accumulator) for the thread's elements.
  template <class Fn>
  __device__ __forceinline__ void for_each(Fn&& fn) {
    RNC_UNROLL
    for (int i = 0; i < SimtTile::kPerThread; ++i) RNC_UNROLL
    for (int j = 0; j < SimtTile::kPerThread; ++j) fn(ThreadTile<Acc>::column(j), tile.v[i][j]);
  }

  __device__ __forceinline__ void clear() { tile.clear(); }

  __device__ __forceinline__ void add(const SimtBlockTile& other) { add(other.tile); }
  __device__ __forceinline__ void add(const ThreadTile<Acc>& other) {
    RNC_UNROLL
    for (int i = 0; i < SimtTile::kPerThread; ++i) RNC_UNROLL
    for (int j = 0; j < SimtTile::kPerThread; ++j) tile.v[i][j] += other.v[i][j];
  }

  // Puts rows kStatsTileRows * part .. of the tile into shared memory.
  __device__ __forceinline__ void stage(int /*part*/, Rows& rows) const {
    RNC_UNROLL
    for (int i = 0; i < SimtTile::kPerThread; ++i) RNC_UNROLL
    for (int j = 0; j < SimtTile::kPerThread; ++j) {
      rows.template put<1>(ThreadTile<Acc>::row(i), ThreadTile<Acc>::column(j), {{tile.v[i][j]}});
    }
  }
};

// Multiplies operands of any type and shape, element by element.
template <class OperandA, class OperandB>
struct SimtMainloop : SimtBlockTile<AccOf<typename OperandA::Element>> {
  using BlockTile = SimtBlockTile<AccOf<typename OperandA::Element>>;
  using typename BlockTile::Acc;
  using Storage = SimtMainloopStorage<Acc>;
  static constexpr bool kSumsMatrices = false;
  // The same main loop for other operands.
  template <class A, class B>
  using With = SimtMainloop<A, B>;
  struct Params {
    OperandA a;
    OperandB b;
  };

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    this->clear();
    accumulate(*this, params, at, shared);
  }

  // Adds the product to the tile `sum`.
  static __device__ __forceinline__ void accumulate(BlockTile& sum, const Params& params,
                                                    const GemmTile& at, Storage& shared) {
    accumulate(sum, params, at, shared, false, [](const auto&) {});
  }

  // The same; see(a) gets each step of A before it is released. b_is_a: B's tile is A's.
  template <class See>
  static __device__ __forceinline__ void accumulate(BlockTile& sum, const Params& params,
                                                    const GemmTile& at, Storage& shared,
                                                    bool b_is_a, See&& see) {
    const auto& shared_b = b_is_a ? shared.a : shared.b;
    SimtOperandLoader<OperandA> load_a(params.a, at.first_row, at.rows, at.group);
    SimtOperandLoader<OperandB> load_b(params.b, at.first_column, at.columns, at.group);
    load_a.fetch(at.depth_begin, at.depth_end);
    if (!b_is_a) load_b.fetch(at.depth_begin, at.depth_end);
    for (int32_t depth = at.depth_begin; depth < at.depth_end; depth += SimtTile::kDepth) {
      // Publish the fetched step.
      load_a.put(shared.a);
      if (!b_is_a) load_b.put(shared.b);
      __syncthreads();
      // Fetch the next one.
      if (depth + SimtTile::kDepth < at.depth_end) {
        load_a.fetch(depth + SimtTile::kDepth, at.depth_end);
        if (!b_is_a) load_b.fetch(depth + SimtTile::kDepth, at.depth_end);
      }
      // Multiply. The step has its own sum, so that rounding errors grow with the number of steps,
      // not of products.
      ThreadTile<Acc> step;
      step.clear();
      RNC_UNROLL_BY(4)
      for (int k = 0; k < SimtTile::kDepth; ++k) {
        Acc a[SimtTile::kPerThread], b[SimtTile::kPerThread];
        RNC_UNROLL
        for (int i = 0; i < SimtTile::kPerThread; ++i) {
          a[i] = shared.a[k][ThreadTile<Acc>::row(i)];
          b[i] = shared_b[k][ThreadTile<Acc>::column(i)];
        }
        RNC_UNROLL
        for (int i = 0; i < SimtTile::kPerThread; ++i) RNC_UNROLL
        for (int j = 0; j < SimtTile::kPerThread; ++j) step.v[i][j] += a[i] * b[j];
      }
      sum.add(step);
      see(shared.a);
      // Release the step.
      __syncthreads();
    }
  }
};

}  // namespace rnc
