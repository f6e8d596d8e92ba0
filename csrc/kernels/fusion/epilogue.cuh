// Epilogues: what happens to 64 rows of a finished tile on their way from shared memory to global
// memory. Each is one functor; its fields are its parameters, SharedStorage<Pieces> is what it
// needs of shared memory beside the rows. Threads take pieces of 8 neighbouring columns
// (RowPieces), and work on all 8 where fewer are inside: what the others become is not stored. One
// that reads rows of other matrices beside the tile's says which:
// for_each_input(fn) calls fn(matrix, row stride), where these are whole vectors. One that
// kSeesOnlyStored looks at the tile as y has it: it may come rounded, and be `stored` already.
#pragma once

#include "kernels/conv/conv_problem.h"
#include "kernels/fusion/activation.cuh"
#include "kernels/fusion/branch_gradient.cuh"
#include "kernels/fusion/sampled_residual.cuh"
#include "tile/column_sums.cuh"

namespace rnc {

// Where 64 rows lie in the output matrix [rows, row_stride]: the first row and column, and how much
// of them is inside. Rows are the GEMM's; RowPlaces says which ones of the output they are.
struct TileCoord {
  int64_t row;
  int32_t rows;      // valid rows
  int32_t channel;   // first column, group included
  int32_t columns;   // valid columns
  int32_t tile_row;  // index of the 64 rows
  int32_t split;     // part of a split reduction
};

struct NoSharedStorage {};

// One thread's view of a tile: its 8 columns, and where its pieces are in memory.
template <class Pieces, class RowPlaces>
struct PieceColumns {
  const RowPlaces& places;
  int64_t first_row, row_stride;
  int32_t channel;
  int count;

  __device__ __forceinline__ PieceColumns(const TileCoord& at, const RowPlaces& places,
                                          int64_t row_stride)
      : places(places),
        first_row(at.row),
        row_stride(row_stride),
        channel(at.channel + Pieces::column()),
        count(Pieces::count(at.columns)) {}

  // Whether they are whole vectors; aligned: those of whole pieces are.
  __device__ __forceinline__ bool are_whole(bool aligned) const {
    return aligned && count == kGroupElements;
  }

  // The output's row.
  __device__ __forceinline__ int64_t pixel(int row) const { return places.row(first_row + row); }

  __device__ __forceinline__ int64_t offset(int row) const {
    return pixel(row) * row_stride + channel;
  }
};

// y = relu?(acc * scale + bias + residual * residual_scale), and a bit for each element: whether
// its ReLU lets a gradient pass.
template <class T, class Residual>
struct ScaleBiasAddReluStore {
  using Acc = AccOf<T>;
  template <class Pieces>
  using SharedStorage = NoSharedStorage;
  T* y;
  const Acc* scale;
  const Acc* bias;
  Residual residual;
  const Acc* residual_scale;
  uint8_t* mask;  // a byte for each piece: needs pieces that are whole
  int64_t row_stride;
  bool relu, aligned;

  template <class Fn>
  __device__ __forceinline__ void for_each_input(Fn&& fn) const {
    if (residual.is_dense() && aligned) fn(residual.values, row_stride);
  }

  template <class Pieces, class RowPlaces, class Rows>
  __device__ __forceinline__ void run(const TileCoord& at, const RowPlaces& places,
                                      const Rows& tile, SharedStorage<Pieces>&) const {
    const PieceColumns<Pieces, RowPlaces> columns(at, places, row_stride);
    if (columns.count == 0) return;
    const ColumnVector<Acc> scales(scale, columns.channel, columns.count, Acc(1),
                                   columns.are_whole(aligned));
    const ColumnVector<Acc> biases(bias, columns.channel, columns.count, Acc(0),
                                   columns.are_whole(aligned));
    const ColumnVector<Acc> residual_scales(residual_scale, columns.channel, columns.count, Acc(1),
                                            columns.are_whole(aligned));
    const auto load = [&](int row, ElementGroup<T>& shortcut) {
      residual.load(shortcut, columns.offset(row), columns.pixel(row), columns.channel,
                    columns.count, aligned);
    };
    const auto store = [&](int row, const ElementGroup<T>& shortcut) {
      const int64_t offset = columns.offset(row);
      ElementGroup<T> out;
      unsigned bits = 0;
      Acc v[kGroupElements];
      tile.get(row, Pieces::column(), v);
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; ++e) {
        v[e] = affine(v[e], scales.v[e], biases.v[e]);
        if (residual.values) v[e] = affine(shortcut.widened(e), residual_scales.v[e], v[e]);
      }
      if (mask) {
        RNC_UNROLL
        for (int e = 0; e < kGroupElements; ++e) bits |= unsigned(relu_passes<T>(v[e])) << e;
        ptx::store_global(mask + offset / kGroupElements, uint8_t(bits));
      }
      if (relu) {
        RNC_UNROLL
        for (int e = 0; e < kGroupElements; ++e) v[e] = rnc::relu(v[e]);
      }
      out.narrow_from(v);
      out.store(y, offset, columns.count, aligned);
    };
    Pieces::template for_each_loaded<ElementGroup<T>, Pieces::kAhead>(at.rows, load, store);
  }
};

// Stores y = acc and, per 64 rows and channel, mean and M2 of what was stored: batch norm's
// statistics without reading y again.
template <class T>
struct StoreWithBnStats {
  using Acc = AccOf<T>;
  using Element = T;
  static constexpr bool kSeesOnlyStored = true;
  template <class Pieces>
  using SharedStorage = ColumnSums<Acc, Pieces>;
  T* y;
  Acc* partials;  // [row tiles][2][row_stride]
  int64_t row_stride;
  bool aligned;
  bool stored = false;

  template <class Pieces, class RowPlaces, class Rows>
  __device__ __forceinline__ void run(const TileCoord& at, const RowPlaces& places,
                                      const Rows& tile, SharedStorage<Pieces>& shared) const {
    const PieceColumns<Pieces, RowPlaces> columns(at, places, row_stride);
    // Store.
    ColumnMoments<Acc> moments;
    Pieces::for_each(at.rows, [&](int i, int row) {
      Acc v[kGroupElements];
      ElementGroup<T> out;
      tile.get(row, Pieces::column(), v);
      if (!stored || !Rows::kAreRounded) out.narrow_from(v);
      if (!stored && columns.count) out.store(y, columns.offset(row), columns.count, aligned);
      if constexpr (!Rows::kAreRounded) out.widen_to(v);
      moments.add(i, v);
    });
    // Reduce.
    shared.store(moments, at.rows, at.columns,
                 partials + int64_t(at.tile_row) * 2 * row_stride + at.channel, row_stride);
  }
};

// dgrad: g = (acc + addend) where the ReLU of batch norm's output let the activation through, else
// 0.
template <class T>
struct AddGateStore {
  using Acc = AccOf<T>;
  template <class Pieces>
  using SharedStorage = NoSharedStorage;
  T* dx;
  BranchGradient<T> addend;
  const T* act;  // the raw convolution output behind that ReLU
  const Acc* act_scale;
  const Acc* act_bias;
  int64_t row_stride;
  bool aligned;

  template <class Fn>
  __device__ __forceinline__ void for_each_input(Fn&& fn) const {
    if (act && aligned) fn(act, row_stride);
    if (addend.is_dense() && aligned) fn(addend.values, int64_t(addend.channels));
  }

  // Stores the thread's pieces and calls then(count, stored, act) with what was stored, in count
  // columns, and, where there is one, the activation.
  template <class Pieces, class RowPlaces, class Rows, class Then>
  __device__ __forceinline__ void store(const TileCoord& at, const RowPlaces& places,
                                        const Rows& tile, Then&& then) const {
    const PieceColumns<Pieces, RowPlaces> columns(at, places, row_stride);
    if (columns.count == 0) return;
    const ColumnVector<Acc> scales(act_scale, columns.channel, columns.count, Acc(1),
                                   columns.are_whole(aligned));
    const ColumnVector<Acc> biases(act_bias, columns.channel, columns.count, Acc(0),
                                   columns.are_whole(aligned));
    struct Loaded {
      ElementGroup<T> other, activation;
      bool adds;
    };
    const auto load = [&](int row, Loaded& beside) {
      beside.adds =
          addend.load(beside.other, columns.pixel(row), columns.channel, columns.count, aligned);
      if (act) beside.activation.load(act, columns.offset(row), columns.count, aligned);
    };
    const auto store = [&](int row, const Loaded& beside) {
      ElementGroup<T> out;
      Acc v[kGroupElements];
      tile.get(row, Pieces::column(), v);
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; ++e) {
        if (e >= columns.count) break;  // for fewer registers on 8.0: 12 warps, not 8
        if (beside.adds) v[e] += beside.other.widened(e);
        const auto before = [&] {
          return affine(beside.activation.widened(e), scales.v[e], biases.v[e]);
        };
        if (act && !relu_passes<T>(before())) v[e] = Acc(0);
      }
      out.narrow_from(v);
      out.store(dx, columns.offset(row), columns.count, aligned);
      then(columns.count, out, beside.activation);
    };
    Pieces::template for_each_loaded<Loaded, Pieces::kAhead>(at.rows, load, store);
  }

  template <class Pieces, class RowPlaces, class Rows>
  __device__ __forceinline__ void run(const TileCoord& at, const RowPlaces& places,
                                      const Rows& tile, SharedStorage<Pieces>&) const {
    store<Pieces>(at, places, tile, [](int, const ElementGroup<T>&, const ElementGroup<T>&) {});
  }
};

// The same, and per 64 rows and channel the two sums batch norm's backward needs: of g and of g *
// (act - mean).
template <class T>
struct AddGateStoreWithBnReduce {
  using Acc = AccOf<T>;
  template <class Pieces>
  using SharedStorage = ColumnSums<Acc, Pieces>;
  AddGateStore<T> gate;
  const Acc* act_mean;
  Acc* partials;  // [row tiles][2][row_stride] or null: no sums

  template <class Fn>
  __device__ __forceinline__ void for_each_input(Fn&& fn) const {
    gate.for_each_input(fn);
  }

  template <class Pieces, class RowPlaces, class Rows>
  __device__ __forceinline__ void run(const TileCoord& at, const RowPlaces& places,
                                      const Rows& tile, SharedStorage<Pieces>& shared) const {
    const PieceColumns<Pieces, RowPlaces> columns(at, places, gate.row_stride);
    const ColumnVector<Acc> means(act_mean, columns.channel, columns.count, Acc(0),
                                  columns.are_whole(gate.aligned));
    Acc gradient[kGroupElements] = {}, moment[kGroupElements] = {};
    gate.template store<Pieces>(
        at, places, tile,
        [&](int count, const ElementGroup<T>& stored, const ElementGroup<T>& activation) {
          RNC_UNROLL
          for (int e = 0; e < kGroupElements; ++e) {
            if (e >= count) break;
            gradient[e] += stored.widened(e);
            moment[e] += stored.widened(e) * (activation.widened(e) - means.v[e]);
          }
        });
    if (!partials) return;
    shared.store(gradient, moment, at.columns,
                 partials + int64_t(at.tile_row) * 2 * gate.row_stride + at.channel,
                 gate.row_stride);
  }
};

// Whether its registers leave none for a second block of Hopper's on a multiprocessor.
template <class Epilogue>
inline constexpr bool kIsLargeEpilogue = false;
template <class T>
inline constexpr bool kIsLargeEpilogue<AddGateStoreWithBnReduce<T>> = true;

// wgrad: this part of the reduction, in the accumulator type; an ordered sum over the parts
// follows. Neighbouring lanes store neighbouring 16 bytes, so that each store fills its sectors.
template <class T>
struct StorePartial {
  using Acc = AccOf<T>;
  template <class Pieces>
  using SharedStorage = NoSharedStorage;
  Acc* workspace;        // [splits][K][filter size]
  int64_t split_stride;  // K * filter size
  int64_t row_stride;    // filter size
  bool aligned;

  template <class Pieces, class RowPlaces, class Rows>
  __device__ __forceinline__ void run(const TileCoord& at, const RowPlaces& places,
                                      const Rows& tile, SharedStorage<Pieces>&) const {
    using Run = ColumnRun<Acc>;
    using Runs = RowPieces<Pieces::kColumns, typename Pieces::Threads, Run::kElements>;
    const PieceColumns<Runs, RowPlaces> columns(at, places, row_stride);
    Runs::for_each(at.rows, [&](int, int row) {
      const Run run = tile.run(row, Runs::column());
      Acc* out = workspace + at.split * split_stride + columns.offset(row);
      if (aligned && columns.count == Run::kElements) {
        ptx::store_global(reinterpret_cast<Run*>(out), run);
      } else {
        RNC_UNROLL
        for (int e = 0; e < Run::kElements; ++e) {
          if (e < columns.count) ptx::store_global(out + e, run.v[e]);
        }
      }
    });
  }
};

// The same, and the sums of A's rows: from the main loops that have them, stored by the first
// columns of those rows.
template <class T>
struct StorePartialWithRowSums {
  using Acc = AccOf<T>;
  template <class Pieces>
  using SharedStorage = NoSharedStorage;
  StorePartial<T> product;
  Acc* sums;       // [splits][product.split_stride], of which a sum for each row
  bool symmetric;  // those on the diagonal are the first

  template <class Pieces, class RowPlaces, class Rows>
  __device__ __forceinline__ void run(const TileCoord& at, const RowPlaces& places,
                                      const Rows& tile, SharedStorage<Pieces>& shared) const {
    product.template run<Pieces>(at, places, tile, shared);
    const int row = Pieces::Threads::index();
    const bool is_on_diagonal = at.channel <= at.row && at.row < at.channel + at.columns;
    const bool is_first = symmetric ? is_on_diagonal : at.channel == 0;
    if (!is_first || row >= at.rows) return;
    ptx::store_global(sums + at.split * product.split_stride + places.row(at.row + row),
                      tile.sums[row]);
  }
};

// StorePartial for a super-group of packed groups (conv/packed_filters.cuh): of its filters and
// channels [R S 32] only those that share a group are elements of the weight.
template <class T>
struct StorePackedPartial {
  using Acc = AccOf<T>;
  template <class Pieces>
  using SharedStorage = NoSharedStorage;
  Acc* workspace;        // [splits][K][R S][channels of a group]
  int64_t split_stride;  // K * filter size
  int64_t row_stride;    // filter size
  int32_t group_channels;

  template <class Pieces, class RowPlaces, class Rows>
  __device__ __forceinline__ void run(const TileCoord& at, const RowPlaces& places,
                                      const Rows& tile, SharedStorage<Pieces>&) const {
    using Quad = Vec<Acc, 4>;  // never in two groups
    const PieceColumns<Pieces, RowPlaces> columns(at, places, row_stride);
    if (columns.count == 0) return;
    // [R S 32] -> [R S, 32]
    const int tap = columns.channel / kPackedChannels;
    const int first_channel = columns.channel % kPackedChannels;
    Pieces::for_each(at.rows, [&](int, int filter) {
      Acc v[kGroupElements];
      tile.get(filter, Pieces::column(), v);
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; e += 4) {
        const int channel = first_channel + e;
        if ((channel ^ filter) >= group_channels) continue;  // not of the filter's group
        const int64_t offset = places.row(at.row + filter) * row_stride + tap * group_channels +
                               channel % group_channels;
        ptx::store_global(reinterpret_cast<Quad*>(workspace + at.split * split_stride + offset),
                          Quad{{v[e], v[e + 1], v[e + 2], v[e + 3]}});
      }
    });
  }
};

}  // namespace rnc
