// D = relu(scale A + shift) B^T: A is normalised, per column, on its way from shared memory to the
// registers that wgmma takes it from. One producer warp, one consumer warpgroup, float output.
#pragma once

#include "slices.cuh"

namespace rnc::reference {

template <class ElementType>
struct GemmRsTile {
  using Element = ElementType;
  static constexpr int kRows = Warpgroup::kRows;
  static constexpr int kColumns = 256;
  static constexpr int kStages = 4;
  static constexpr int kThreads = Warpgroup::kThreads + 32;
};

struct GemmRsParams {
  ptx::TensorMap a, b;
  const float* scale;  // [depth]
  const float* shift;  // [depth]
  float* d;            // [rows, columns]
  int32_t rows, columns, depth, slices;
};

template <class Tile>
struct GemmRsStorage {
  KMajorSlice<Tile::kRows> a[Tile::kStages];
  KMajorSlice<Tile::kColumns> b[Tile::kStages];
  MbarrierRing<Tile::kStages> ring;
};

// One slice of A in registers: four wgmma steps of four registers.
struct SliceFragments {
  static constexpr int kSteps = 4;
  uint32_t steps[kSteps][4];
};

// The registers of one wgmma step: rows g and g + 8 of columns 2t, 2t + 1, then of these columns
// + 8, where lane = 4 g + t.
template <class Element>
__device__ __forceinline__ void normalise_step(const GemmRsParams& params, int32_t first_column,
                                               uint32_t (&step)[4]) {
  RNC_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int32_t column = first_column + half * 8 + int32_t(threadIdx.x) % 4 * 2;
    Vec<float, 2> scale = {}, shift = {};
    if (column < params.depth) {
      scale = ptx::load_global_nc(reinterpret_cast<const Vec<float, 2>*>(params.scale + column));
      shift = ptx::load_global_nc(reinterpret_cast<const Vec<float, 2>*>(params.shift + column));
    }
    RNC_UNROLL
    for (int row = 0; row < 2; ++row) {
      uint32_t& pair = step[half * 2 + row];
      const Vec<float, 2> x = unpack_pair<Element>(pair);
      pair = pack_pair<Element>(max(fmaf(x.v[0], scale.v[0], shift.v[0]), 0.0f),
                                max(fmaf(x.v[1], scale.v[1], shift.v[1]), 0.0f));
    }
  }
}

// Loads the consumer's rows of a slice and normalises them.
template <class Element, int kRows>
__device__ __forceinline__ void load_normalised(const KMajorSlice<kRows>& shared,
                                                const GemmRsParams& params, int32_t slice,
                                                SliceFragments& fragments) {
  const int lane = int(threadIdx.x) % 32;
  const int row = int(threadIdx.x) / 32 * 16 + lane % 16;
  const uint32_t address = ptx::shared_address(shared.bytes);
  RNC_UNROLL
  for (int step = 0; step < SliceFragments::kSteps; ++step) {
    const uint32_t offset = uint32_t(row * kSliceBytes + step * 32 + lane / 16 * 16);
    ptx::ldmatrix<4>(fragments.steps[step], address + swizzle_offset(offset, Swizzle::k128));
    normalise_step<Element>(params, slice * kSliceElements<Element> + step * 16,
                            fragments.steps[step]);
  }
}

// grid: (row tiles, column tiles)
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    gemm_rs_kernel(const __grid_constant__ GemmRsParams params) {
  using Element = typename Tile::Element;
  auto& shared = dynamic_smem<GemmRsStorage<Tile>>();
  const int32_t first_row = int32_t(blockIdx.x) * Tile::kRows;
  const int32_t first_column = int32_t(blockIdx.y) * Tile::kColumns;

  // Set up the ring.
  if (threadIdx.x == 0) shared.ring.initialise(Warpgroup::kWarps);
  __syncthreads();

  // The last warp fills it.
  if (threadIdx.x >= Warpgroup::kThreads) {
    if (ptx::elect_one()) {
      RingPosition<Tile::kStages> position;
      for (int32_t slice = 0; slice < params.slices; ++slice) {
        auto& a = shared.a[position.stage];
        auto& b = shared.b[position.stage];
        auto& arrived = shared.ring.full[position.stage];
        const int32_t depth = slice * kSliceElements<Element>;
        shared.ring.acquire(position, sizeof a.bytes + sizeof b.bytes);
        ptx::tma_load(a.bytes, &params.a, arrived, {depth, first_row});
        ptx::tma_load(b.bytes, &params.b, arrived, {depth, first_column});
        position.advance();
      }
    }
    return;
  }

  // The warpgroup normalises the first slice.
  float accumulators[Tile::kColumns / 2];
  SliceFragments even, odd;
  RingPosition<Tile::kStages> normalising, multiplying;
  shared.ring.wait(normalising);
  load_normalised<Element>(shared.a[normalising.stage], params, 0, even);
  normalising.advance();

  // Then it multiplies every slice while it normalises the next into the other fragments. These
  // must stay untouched until the wait; nothing else may define registers of a wgmma in flight, or
  // ptxas makes it wait at once.
  const auto multiply = [&](int32_t slice, SliceFragments& current, SliceFragments& next) {
    // Start the multiplication.
    const auto& b = shared.b[multiplying.stage];
    ptx::wgmma_fence();
    RNC_UNROLL
    for (int step = 0; step < SliceFragments::kSteps; ++step) {
      ptx::wgmma_rs<Element, Tile::kColumns>(accumulators, current.steps[step], b.descriptor(step),
                                             slice != 0 || step != 0);
    }
    ptx::wgmma_commit();
    // Normalise the next slice.
    if (slice + 1 < params.slices) {
      shared.ring.wait(normalising);
      load_normalised<Element>(shared.a[normalising.stage], params, slice + 1, next);
      normalising.advance();
    }
    // Release this one.
    ptx::wgmma_wait<0>();
    ptx::keep_registers(current.steps);
    shared.ring.release_if(multiplying.stage, true);
    multiplying.advance();
  };
  for (int32_t slice = 0; slice < params.slices; slice += 2) {
    multiply(slice, even, odd);
    if (slice + 1 < params.slices) multiply(slice + 1, odd, even);
  }
  ptx::keep_registers(accumulators);

  // Store.
  store_floats(accumulators, params.d, params.rows, params.columns, first_row, first_column);
}

}  // namespace rnc::reference
