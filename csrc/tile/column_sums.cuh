// Sums down the columns of 64 rows, always in the same order: rows within a thread, then threads
// from top to bottom.
#pragma once

#include "ptx/memory.cuh"
#include "tile/row_pieces.cuh"

namespace rnc {

// Mean and centred sum of squares of each of a thread's columns, found in one pass: distances are
// taken from the first row. That is a sample itself, so its square is at most as many times the
// centred sum as there are rows: a large mean cancels nothing.
template <class Acc>
struct ColumnMoments {
  Acc first[kGroupElements], sum[kGroupElements], squares[kGroupElements];

  __device__ __forceinline__ ColumnMoments() {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) first[e] = sum[e] = squares[e] = Acc(0);
  }

  // The thread's i-th row.
  __device__ __forceinline__ void add(int i, const Acc (&piece)[kGroupElements]) {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      if (i == 0) {
        first[e] = piece[e];
      } else {
        const Acc distance = piece[e] - first[e];
        sum[e] += distance;
        squares[e] += distance * distance;
      }
    }
  }

  // inverse_rows: 1 / how many there were, or anything finite where there was none.
  __device__ __forceinline__ void finish(Acc inverse_rows, Acc (&mean)[kGroupElements],
                                         Acc (&m2)[kGroupElements]) const {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      const Acc distance = sum[e] * inverse_rows;
      mean[e] = first[e] + distance;
      m2[e] = squares[e] - sum[e] * distance;
    }
  }
};

// Two sums for each column. Between two uses of the same shared memory the threads must meet.
template <class Acc, class RowPieces>
struct ColumnSums {
  using Pieces = RowPieces;
  using Partial = SpreadRows<Acc, Pieces::kRowsAtOnce, Pieces::kColumns, 0>;
  static_assert(Pieces::kColumns <= Pieces::kThreads, "one thread per column adds up");
  // Both at once where they are small; else one after the other.
  static constexpr bool kTogether = sizeof(Partial) <= 4096;
  Partial partial[kTogether ? 2 : 1];

  // Adds up what every thread has of its columns, and writes sums of `first` to out[column], of
  // `second` to out[stride + column].
  __device__ __forceinline__ void store(const Acc (&first)[kGroupElements],
                                        const Acc (&second)[kGroupElements], int columns, Acc* out,
                                        int64_t stride) {
    // Other threads take the second sum where there are enough.
    constexpr bool kShare = kTogether && Pieces::kThreads >= 2 * Pieces::kColumns;
    constexpr int kOthers = kShare ? Pieces::kColumns : 0;
    const auto add = [&](const Partial& of, int column, Acc* sums) {
      if (column < 0 || column >= columns) return;
      ptx::store_global(sums + column, add_up([&](int t) { return of.at(t, column); }));
    };
    const int index = Pieces::Threads::index();
    reduce(
        first, second, [&](const Partial& of) { add(of, index, out); },
        [&](const Partial& of) { add(of, index - kOthers, out + stride); });
  }

  // Writes the mean of `rows` rows to out[column], and the centred sum of squares to
  // out[stride + column] (Chan et al. 1983).
  __device__ __forceinline__ void store(const ColumnMoments<Acc>& moments, int rows, int columns,
                                        Acc* out, int64_t stride) {
    // A thread has one row more where the last ones do not go round.
    const int each = rows / Pieces::kRowsAtOnce, rest = rows % Pieces::kRowsAtOnce;
    const auto rows_of = [&](int t) { return t < rest ? Acc(each + 1) : Acc(each); };
    const auto inverse = [](Acc count) { return Acc(1) / count; };
    Acc piece_mean[kGroupElements], piece_m2[kGroupElements];
    moments.finish(rows == Pieces::kRows ? inverse(Acc(Pieces::kPerThread))
                                         : inverse(max(rows_of(Pieces::row(0)), Acc(1))),
                   piece_mean, piece_m2);
    const int column = Pieces::Threads::index();
    Acc between = Acc(0);  // the centred sum of squares of the threads' means
    const auto merge_means = [&](const Partial& means) {
      if (column >= columns) return;
      const Acc sum = add_up([&](int t) { return rows_of(t) * means.at(t, column); });
      const Acc mean = sum * inverse(Acc(rows));
      between = add_up([&](int t) {
        const Acc distance = means.at(t, column) - mean;
        return rows_of(t) * (distance * distance);
      });
      ptx::store_global(out + column, mean);
    };
    const auto merge_squares = [&](const Partial& m2) {
      if (column >= columns) return;
      const Acc within = add_up([&](int t) { return m2.at(t, column); });
      ptx::store_global(out + stride + column, within + between);
    };
    reduce(piece_mean, piece_m2, merge_means, merge_squares);
  }

 private:
  // Calls add_first and add_second with what all threads have of the two.
  template <class AddFirst, class AddSecond>
  __device__ __forceinline__ void reduce(const Acc (&first)[kGroupElements],
                                         const Acc (&second)[kGroupElements], AddFirst&& add_first,
                                         AddSecond&& add_second) {
    const int row = Pieces::row(0), column = Pieces::column();
    partial[0].put(row, column, first);
    if constexpr (kTogether) partial[1].put(row, column, second);
    Pieces::Threads::sync();
    add_first(partial[0]);
    if constexpr (!kTogether) {
      Pieces::Threads::sync();
      partial[0].put(row, column, second);
      Pieces::Threads::sync();
    }
    add_second(partial[kTogether ? 1 : 0]);
  }

  // value(0) + value(1) + ..., one for each thread above each other, in runs of 8, so that rounding
  // errors do not grow with their number.
  template <class Value>
  static __device__ __forceinline__ Acc add_up(Value&& value) {
    constexpr int kRun = 8;
    static_assert(Pieces::kRowsAtOnce % kRun == 0);
    // Of more runs than two not all wait in registers.
    [[maybe_unused]] constexpr int kUnrolled = Pieces::kRowsAtOnce > 2 * kRun ? 1 : 2;
    Acc sum = Acc(0);
    RNC_UNROLL_BY(kUnrolled)
    for (int first = 0; first < Pieces::kRowsAtOnce; first += kRun) {
      Acc run = Acc(0);
      RNC_UNROLL
      for (int t = 0; t < kRun; ++t) run += value(first + t);
      sum += run;
    }
    return sum;
  }
};

}  // namespace rnc
