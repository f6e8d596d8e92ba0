// Epilogues: what happens to a finished tile of accumulators on its way to memory. Each is one
// functor; its fields are its parameters, its SharedStorage is what it needs of shared memory after
// the main loop.
#pragma once

#include "kernels/fusion/activation.cuh"
#include "ptx/memory.cuh"
#include "tile/column_sums.cuh"

namespace rnc {

// Where a tile lies in the output matrix [rows, row_stride]: its first row and column, and how much
// of it is inside.
struct TileCoord {
  int64_t row;
  int32_t rows;      // valid rows of the tile
  int32_t channel;   // first column, group included
  int32_t columns;   // valid columns of the tile
  int32_t tile_row;  // index of the row tile
  int32_t split;     // part of a split reduction
};

struct NoSharedStorage {};

// y = relu?(acc * scale + bias + residual)
template <class T>
struct ScaleBiasAddReluStore {
  using Acc = AccOf<T>;
  using SharedStorage = NoSharedStorage;
  T* y;
  const Acc* scale;
  const Acc* bias;
  const T* residual;
  int64_t row_stride;
  bool relu;

  __device__ __forceinline__ void run(const TileCoord& at, ThreadTile<Acc>& tile,
                                      SharedStorage&) const {
    for_each_element(at.rows, at.columns, [&](int i, int j, int row, int column) {
      const int32_t channel = at.channel + column;
      const int64_t offset = (at.row + row) * row_stride + channel;
      Acc v = tile.v[i][j];
      if (scale) v = v * ptx::load_global_nc(scale + channel);
      if (bias) v += ptx::load_global_nc(bias + channel);
      if (residual) v += Acc(widen(ptx::load_global_nc(residual + offset)));
      if (relu) v = rnc::relu(v);
      ptx::store_global(y + offset, narrow_to<T>(v));
    });
  }
};

// Stores y = acc and, per row tile and channel, mean and M2 of what was stored: batch norm's
// statistics without reading y again.
template <class T>
struct StoreWithBnStats {
  using Acc = AccOf<T>;
  using SharedStorage = ColumnSums<Acc>;
  T* y;
  Acc* partials;  // [row tiles][2][row_stride]
  int64_t row_stride;

  __device__ __forceinline__ void run(const TileCoord& at, ThreadTile<Acc>& tile,
                                      SharedStorage& shared) const {
    for_each_element(at.rows, at.columns, [&](int i, int j, int row, int column) {
      const T stored = narrow_to<T>(tile.v[i][j]);
      ptx::store_global(y + (at.row + row) * row_stride + at.channel + column, stored);
      tile.v[i][j] = Acc(widen(stored));
    });
    Acc* mean = partials + int64_t(at.tile_row) * 2 * row_stride + at.channel;
    store_column_statistics(tile, at.rows, at.columns, mean, mean + row_stride, shared);
  }
};

// dgrad: g = (acc + addend) where the ReLU of batch norm's output let the activation through, else
// 0.
template <class T>
struct AddGateStore {
  using Acc = AccOf<T>;
  T* dx;
  const T* addend;
  const T* act;  // the raw convolution output behind that ReLU
  const Acc* act_scale;
  const Acc* act_bias;
  int64_t row_stride;
  using SharedStorage = NoSharedStorage;

  // Stores the element and returns it as stored.
  __device__ __forceinline__ Acc store(Acc v, int64_t offset, int32_t channel,
                                       Acc act_value) const {
    if (addend) v += Acc(widen(ptx::load_global_nc(addend + offset)));
    if (act) {
      const Acc pre = affine(act_value, ptx::load_global_nc(act_scale + channel),
                             ptx::load_global_nc(act_bias + channel));
      if (!relu_passes<T>(pre)) v = Acc(0);
    }
    const T stored = narrow_to<T>(v);
    ptx::store_global(dx + offset, stored);
    return Acc(widen(stored));
  }

  __device__ __forceinline__ void run(const TileCoord& at, ThreadTile<Acc>& tile,
                                      SharedStorage&) const {
    for_each_element(at.rows, at.columns, [&](int i, int j, int row, int column) {
      const int64_t offset = (at.row + row) * row_stride + at.channel + column;
      const Acc act_value = act ? Acc(widen(ptx::load_global_nc(act + offset))) : Acc(0);
      store(tile.v[i][j], offset, at.channel + column, act_value);
    });
  }
};

// The same, and per row tile and channel the two sums batch norm's backward needs: of g and of g *
// (act - mean).
template <class T>
struct AddGateStoreWithBnReduce {
  using Acc = AccOf<T>;
  using SharedStorage = ColumnSums<Acc>;
  AddGateStore<T> gate;
  const Acc* act_mean;
  Acc* partials;  // [row tiles][2][row_stride]

  __device__ __forceinline__ void run(const TileCoord& at, ThreadTile<Acc>& tile,
                                      SharedStorage& shared) const {
    ThreadTile<Acc> gradient, moment;
    gradient.clear();
    moment.clear();
    for_each_element(at.rows, at.columns, [&](int i, int j, int row, int column) {
      const int32_t channel = at.channel + column;
      const int64_t offset = (at.row + row) * gate.row_stride + channel;
      const Acc act_value = Acc(widen(ptx::load_global_nc(gate.act + offset)));
      gradient.v[i][j] = gate.store(tile.v[i][j], offset, channel, act_value);
      moment.v[i][j] = gradient.v[i][j] * (act_value - ptx::load_global_nc(act_mean + channel));
    });
    Acc* sums = partials + int64_t(at.tile_row) * 2 * gate.row_stride + at.channel;
    store_column_sums(gradient, at.columns, sums, shared);
    store_column_sums(moment, at.columns, sums + gate.row_stride, shared);
  }
};

// wgrad: this part of the reduction, in the accumulator type; an ordered sum over the parts
// follows.
template <class T>
struct StorePartial {
  using Acc = AccOf<T>;
  using SharedStorage = NoSharedStorage;
  Acc* workspace;        // [splits][K][filter size]
  int64_t split_stride;  // K * filter size
  int64_t row_stride;    // filter size

  __device__ __forceinline__ void run(const TileCoord& at, ThreadTile<Acc>& tile,
                                      SharedStorage&) const {
    Acc* out = workspace + at.split * split_stride + at.row * row_stride + at.channel;
    for_each_element(at.rows, at.columns, [&](int i, int j, int row, int column) {
      ptx::store_global(out + row * row_stride + column, tile.v[i][j]);
    });
  }
};

}  // namespace rnc
