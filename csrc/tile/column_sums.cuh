// Sums down the columns of a SIMT tile, always in the same order: rows within a thread, then
// threads from top to bottom.
#pragma once

#include "ptx/memory.cuh"
#include "tile/simt_tile.cuh"

namespace rnc {

template <class Acc>
struct ColumnSums {
  Acc partial[SimtTile::kThreadsPerSide][SimtTile::kColumns];
  Acc total[SimtTile::kColumns];

  // Leaves the 64 column sums of `tile` in `total`, visible to every thread. Elements outside the
  // tile must be 0.
  __device__ __forceinline__ void reduce(const ThreadTile<Acc>& tile) {
    // Sum the rows this thread holds.
    RNC_UNROLL
    for (int j = 0; j < SimtTile::kPerThread; ++j) {
      Acc sum = Acc(0);
      RNC_UNROLL
      for (int i = 0; i < SimtTile::kPerThread; ++i) sum += tile.v[i][j];
      partial[ThreadTile<Acc>::row(0)][ThreadTile<Acc>::column(j)] = sum;
    }
    __syncthreads();
    // Sum the threads of each column, one thread per column.
    if (threadIdx.x < SimtTile::kColumns) {
      Acc sum = Acc(0);
      RNC_UNROLL
      for (int t = 0; t < SimtTile::kThreadsPerSide; ++t) sum += partial[t][threadIdx.x];
      total[threadIdx.x] = sum;
    }
    __syncthreads();
  }
};

// Writes the column sums of `tile` to out[column].
template <class Acc>
__device__ __forceinline__ void store_column_sums(const ThreadTile<Acc>& tile, int columns,
                                                  Acc* out, ColumnSums<Acc>& shared) {
  shared.reduce(tile);
  const int column = int(threadIdx.x);
  if (column < columns) ptx::store_global(out + column, shared.total[column]);
}

// Writes the mean and the centred sum of squares of every column of `tile` (`rows` x `columns`
// valid elements) to mean_out[column], m2_out[column]. Centring on the tile's own mean keeps large
// means from cancelling in fp32 (Chan et al. 1983).
template <class Acc>
__device__ __forceinline__ void store_column_statistics(const ThreadTile<Acc>& tile, int rows,
                                                        int columns, Acc* mean_out, Acc* m2_out,
                                                        ColumnSums<Acc>& shared) {
  // Find the columns' means.
  ThreadTile<Acc> terms;
  terms.clear();
  for_each_element(rows, columns, [&](int i, int j, int, int) { terms.v[i][j] = tile.v[i][j]; });
  shared.reduce(terms);
  // Square the distances from them.
  const Acc inverse_rows = Acc(1) / Acc(rows);
  for_each_element(rows, columns, [&](int i, int j, int, int column) {
    const Acc distance = tile.v[i][j] - shared.total[column] * inverse_rows;
    terms.v[i][j] = distance * distance;
  });
  const int column = int(threadIdx.x);
  const Acc mean = column < columns ? shared.total[column] * inverse_rows : Acc(0);
  shared.reduce(terms);
  // Write both, one thread per column.
  if (column < columns) {
    ptx::store_global(mean_out + column, mean);
    ptx::store_global(m2_out + column, shared.total[column]);
  }
}

}  // namespace rnc
