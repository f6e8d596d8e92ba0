// The gradient of the expand's input behind batch norm in closed form: the gradient of its output
// by the filters, its input by a matrix that comes as a sum of rounded ones, and a bias.
#pragma once

#include <type_traits>

#include "kernels/conv/gemm_tile.h"
#include "ptx/memory.cuh"

namespace rnc {

// The shared memory of two main loops that run one after the other, or together where they share a
// ring.
template <class First, class Second>
struct EitherStorage {
  union type {
    First first;
    Second second;
  };
};
template <class Both>
struct EitherStorage<Both, Both> {
  using type = Both;
};

// A main loop that chains two others: both GEMMs add to one tile, with the same rows and columns,
// depths of their own.
template <class First, class Second>
struct ExpandDgradMainloop : First {
  using typename First::Acc;
  using Storage = typename EitherStorage<typename First::Storage, typename Second::Storage>::type;
  struct Params {
    typename First::Params first;
    typename Second::Params second;
    const Acc* bias;
    int32_t second_depth;

    const char* error() const { return first.error() ? first.error() : second.error(); }
  };

  // position: in the ring of a main loop that a warp of its own feeds.
  template <class... Position>
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared,
                                      Position&... position) {
    // Start from the bias.
    First::clear();
    for_each_accumulator(*this, at, [&](int32_t channel, Acc& v) {
      v = ptx::load_global_input(params.bias + channel);
    });
    // Multiply the gradient by the filters.
    First::accumulate(*this, params.first, at, shared_by<typename First::Storage>(shared),
                      position...);
    // Multiply the activation by the matrices.
    GemmTile second_at = at;
    second_at.depth_end = params.second_depth;
    auto& second_shared = shared_by<typename Second::Storage>(shared);
    if constexpr (Second::kSumsMatrices) {
      Second::accumulate(*this, params.second, second_at, second_shared, position...);
    } else {
      typename Second::Params second = params.second;
      for (int32_t i = 0; i < params.second.b.matrices; ++i) {
        Second::accumulate(*this, second, second_at, second_shared);
        second.b.weight += second.b.matrix_size();
      }
    }
  }

  // What that warp loads.
  template <class Position>
  static __device__ __forceinline__ void load(const Params& params, const GemmTile& at,
                                              Storage& shared, Position& position) {
    First::load(params.first, at, shared, position);
    Second::load(params.second, at, shared, position);
  }

 private:
  template <class Wanted>
  static __device__ __forceinline__ Wanted& shared_by(Storage& shared) {
    if constexpr (std::is_same_v<Wanted, Storage>) {
      return shared;
    } else if constexpr (std::is_same_v<Wanted, typename First::Storage>) {
      return shared.first;
    } else {
      return shared.second;
    }
  }
};

}  // namespace rnc
