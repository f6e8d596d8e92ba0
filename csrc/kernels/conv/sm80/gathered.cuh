// The Ampere main loop for operands of which one or both do not come in whole, aligned 16 bytes:
// odd channels, odd pointers. Elements are loaded one by one into registers, one slice ahead of the
// multiplication, and stored in pairs into the slices that ldmatrix loads fragments from.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/operands.cuh"
#include "kernels/conv/sm80/mainloop.cuh"
#include "tile/register_mainloop.cuh"

namespace rnc {

// One thread's share of one operand: one pair of elements, neighbours along the operand's
// contiguous index, of some of the slice's lines. Neighbouring lanes take neighbouring pairs, so a
// warp loads from few lines at a time. The index across the lines is decoded once per block, into
// shared memory, the other one once per thread.
template <class Operand, class Slice, int kThreads>
struct SliceGatherer {
  using T = typename Operand::Element;
  using Pair = Vec<T, 2>;
  using Prologue = typename Operand::Prologue;
  static constexpr bool kLinesAreRows = Operand::kDepthIsContiguous;
  using Line = std::conditional_t<kLinesAreRows, typename Operand::Row, typename Operand::Depth>;
  using Along = std::conditional_t<kLinesAreRows, typename Operand::Depth, typename Operand::Row>;
  static constexpr int kPairs = Slice::kRowBytes / int(sizeof(Pair));
  static constexpr int kLinesAtOnce = kThreads / kPairs;
  static constexpr int kHeld = Slice::kLines / kLinesAtOnce;
  static_assert(kThreads % kPairs == 0 && Slice::kLines % kLinesAtOnce == 0);
  static_assert(Slice::kLines <= kThreads, "one thread per line decodes it");
  static_assert(2 * kHeld <= 32, "one bit per element");
  // Rows stay what they are; of the depth, the lines of the next slice are written while those of
  // this one are read.
  struct Lines {
    Line v[kLinesAreRows ? 1 : 2][Slice::kLines];
  };

  const Operand& operand;
  Lines& lines;
  const int32_t first_row, rows, group;
  Along along[2];
  Pair pairs[kHeld];
  uint32_t inside;  // a bit for each element that is one of the operand's

  __device__ __forceinline__ SliceGatherer(const Operand& operand, Lines& lines, int32_t first_row,
                                           int32_t rows, int32_t group)
      : operand(operand), lines(lines), first_row(first_row), rows(rows), group(group) {
    RNC_UNROLL
    for (int e = 0; e < 2; ++e) {
      if constexpr (!kLinesAreRows) along[e] = operand.row(first_row + element() + e, rows, group);
    }
  }

  // The thread's pair starts at this element of its lines.
  static __device__ __forceinline__ int element() { return int(threadIdx.x) % kPairs * 2; }
  static __device__ __forceinline__ int line(int i) {
    return int(threadIdx.x) / kPairs + i * kLinesAtOnce;
  }

  // Decodes the lines of a slice, for all threads.
  __device__ __forceinline__ void find_lines(int slice, int32_t first_depth, int32_t depth_end) {
    const int line = int(threadIdx.x);
    if (line >= Slice::kLines) return;
    if constexpr (!kLinesAreRows) {
      lines.v[slice % 2][line] = operand.depth(first_depth + line, depth_end, group);
    } else if (slice == 0) {
      lines.v[0][line] = operand.row(first_row + line, rows, group);
    }
  }

  // Loads the thread's elements of a slice whose lines everybody has found.
  __device__ __forceinline__ void fetch(int slice, int32_t first_depth, int32_t depth_end) {
    RNC_UNROLL
    for (int e = 0; e < 2; ++e) {
      if constexpr (kLinesAreRows) {
        along[e] = operand.depth(first_depth + element() + e, depth_end, group);
      }
    }
    inside = 0;
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      const Line at = lines.v[kLinesAreRows ? 0 : slice % 2][line(i)];
      RNC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const T* source = find(at, along[e]);
        pairs[i].v[e] = source ? ptx::load_global_nc(source) : narrow_to<T>(0.0f);
        inside |= (source ? 1u : 0u) << (2 * i + e);
      }
    }
  }

  // Stores what was fetched; the prologue has not seen it yet.
  __device__ __forceinline__ void put(Slice& shared) {
    if constexpr (!Prologue::kChangesNothing) activate();
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      const void* place = shared.at(line(i), element() * int(sizeof(T)));
      *static_cast<Pair*>(const_cast<void*>(place)) = pairs[i];
    }
  }

 private:
  __device__ __forceinline__ const T* find(const Line& line, const Along& along) const {
    if constexpr (kLinesAreRows) {
      return operand.find(line, along);
    } else {
      return operand.find(along, line);
    }
  }

  // Channels belong to the contiguous index.
  __device__ __forceinline__ void activate() {
    RNC_UNROLL
    for (int e = 0; e < 2; ++e) {
      constexpr uint32_t kElements = 0x55555555u >> (32 - 2 * kHeld);
      if (!(inside >> e & kElements)) continue;
      const auto channel = operand.prologue.of_channel(operand.channel(along[e], group));
      RNC_UNROLL
      for (int i = 0; i < kHeld; ++i) {
        if (inside >> (2 * i + e) & 1) pairs[i].v[e] = channel.apply(pairs[i].v[e]);
      }
    }
  }
};

// One thread's share of one operand, copied where the lines are steps of depth and the operand
// comes in whole pieces after all: of a stem's wgrad, the output's gradient does.
template <class Operand, class Slice, int kThreads>
struct SliceLoader {
  using Gatherer = SliceGatherer<Operand, Slice, kThreads>;
  using Stage = OperandStage<Slice, false>;
  static constexpr bool kMayCopy = !Gatherer::kLinesAreRows;
  using Copier = SliceCopier<Operand, Slice, kThreads>;

  const bool copies;
  Gatherer gatherer;

  __device__ __forceinline__ SliceLoader(const Operand& operand, bool in_pieces,
                                         typename Gatherer::Lines& lines, int32_t first_row,
                                         int32_t rows, int32_t group)
      : copies(kMayCopy && in_pieces), gatherer(operand, lines, first_row, rows, group) {}

  __device__ __forceinline__ void find_lines(int slice, int32_t first_depth, int32_t depth_end) {
    if (!copies) gatherer.find_lines(slice, first_depth, depth_end);
  }

  // `shared` is not read before the next barrier.
  __device__ __forceinline__ void fetch(Stage& shared, int slice, int32_t first_depth,
                                        int32_t depth_end) {
    if constexpr (kMayCopy) {
      if (copies) return copier().copy(shared, first_depth, depth_end);
    }
    gatherer.fetch(slice, first_depth, depth_end);
  }

  __device__ __forceinline__ void put(Stage& shared, int32_t first_depth, int32_t depth_end) {
    if constexpr (kMayCopy) {
      if (copies) {
        ptx::cp_async_wait_all();
        if constexpr (!Operand::Prologue::kChangesNothing) {
          copier().activate(shared, first_depth, depth_end);
        }
        return;
      }
    }
    gatherer.put(shared.slice);
  }

 private:
  // Made where it is needed: only an operand in whole pieces has what a copier reads at once.
  __device__ __forceinline__ Copier copier() const {
    return Copier(gatherer.operand, gatherer.first_row, gatherer.rows, gatherer.group);
  }
};

// Multiplies 16-bit operands of any shape and alignment.
template <class Tile, class OperandA, class OperandB>
struct Sm80GatheredMainloop : Sm80BlockTile<Tile, typename OperandA::Element> {
  using Base = Sm80BlockTile<Tile, typename OperandA::Element>;
  using Base::kColumns, Base::kRows, Base::kSliceDepth, Base::kThreads, Base::tile;
  using SliceA = SliceOf<OperandA, kRows>;
  using SliceB = SliceOf<OperandB, kColumns>;
  using LoaderA = SliceLoader<OperandA, SliceA, kThreads>;
  using LoaderB = SliceLoader<OperandB, SliceB, kThreads>;
  struct Storage {
    typename LoaderA::Stage a[2];
    typename LoaderB::Stage b[2];
    typename LoaderA::Gatherer::Lines lines_a;
    typename LoaderB::Gatherer::Lines lines_b;
  };
  struct Params {
    OperandA a;
    OperandB b;
    bool a_in_pieces = a.is_in_pieces(), b_in_pieces = b.is_in_pieces();
  };

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    tile.clear();
    LoaderA load_a(params.a, params.a_in_pieces, shared.lines_a, at.first_row, at.rows, at.group);
    LoaderB load_b(params.b, params.b_in_pieces, shared.lines_b, at.first_column, at.columns,
                   at.group);
    const auto depth_of = [&](int slice) { return at.depth_begin + slice * kSliceDepth; };
    const auto find_lines = [&](int slice) {
      load_a.find_lines(slice, depth_of(slice), at.depth_end);
      load_b.find_lines(slice, depth_of(slice), at.depth_end);
    };
    const int slices = (at.depth_end - at.depth_begin + kSliceDepth - 1) / kSliceDepth;
    // Leave pixels that no tap of a strided gradient sees: a copy that is fetched for them would be
    // in flight while the epilogue takes the memory it writes to.
    if (slices == 0) return;
    find_lines(0);
    __syncthreads();
    register_mainloop(
        slices,
        [&](int stage, int slice) {
          load_a.fetch(shared.a[stage], slice, depth_of(slice), at.depth_end);
          load_b.fetch(shared.b[stage], slice, depth_of(slice), at.depth_end);
        },
        [&](int stage, int slice) {
          load_a.put(shared.a[stage], depth_of(slice), at.depth_end);
          load_b.put(shared.b[stage], depth_of(slice), at.depth_end);
          find_lines(slice + 1);
        },
        [&](int stage, int) { Base::multiply(shared.a[stage].slice, shared.b[stage].slice); });
  }
};

}  // namespace rnc
