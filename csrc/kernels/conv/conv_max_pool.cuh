// A convolution of few channels with batch norm, ReLU and the max-pool behind it at inference, a
// network's stem: the convolution's output, four times as large as the pool's, is never stored.
#pragma once

#include "kernels/conv/pool_patches.h"
#include "kernels/conv/sm80/few_channels.cuh"
#include "kernels/fusion/activation.cuh"

namespace rnc {

// A patch of the activated convolution as it would have been stored: 64 channels of each pixel.
template <class T, int kPixels>
struct alignas(1024) ActivatedPatch {
  static constexpr int kChannels = 64;
  static constexpr int kRowBytes = kChannels * int(sizeof(T));
  static_assert(kRowBytes == swizzle_bytes(Swizzle::k128));
  unsigned char bytes[kPixels * kRowBytes];

  __device__ __forceinline__ void put(int pixel, int channel, const Vec<T, 2>& pair) {
    ptx::store_shared(reinterpret_cast<Vec<T, 2>*>(bytes + offset(pixel, channel)), pair);
  }
  // 8 channels, two in a word.
  using Words = Vec<uint32_t, kGroupElements / 2>;
  __device__ __forceinline__ Words words(int pixel, int channel) const {
    return ptx::load_shared(reinterpret_cast<const Words*>(bytes + offset(pixel, channel)));
  }

 private:
  static __device__ __forceinline__ int offset(int pixel, int channel) {
    const int byte = pixel * kRowBytes + channel * int(sizeof(T));
    return int(swizzle_offset(uint32_t(byte), Swizzle::k128));
  }
};

// The maximum of each of 8 channels. ReLU has left no negative numbers, so 16-bit elements are
// ordered as their bits are: zero, with which padding cannot win, numbers, infinity, NaN.
struct MaxOfGroup {
  Vec<uint32_t, kGroupElements / 2> lower = {}, upper = {};  // each in the upper half of a word

  __device__ __forceinline__ void take(const Vec<uint32_t, kGroupElements / 2>& words) {
    RNC_UNROLL
    for (int i = 0; i < kGroupElements / 2; ++i) {
      lower.v[i] = max(lower.v[i], words.v[i] << 16);
      upper.v[i] = max(upper.v[i], words.v[i]);  // what is below decides nothing
    }
  }
  template <class T>
  __device__ __forceinline__ ElementGroup<T> get() const {
    Vec<uint32_t, kGroupElements / 2> words;
    RNC_UNROLL
    for (int i = 0; i < kGroupElements / 2; ++i) {
      words.v[i] = (upper.v[i] & 0xFFFF0000u) | lower.v[i] >> 16;
    }
    ElementGroup<T> group;
    static_assert(sizeof group == sizeof words);
    memcpy(&group, &words, sizeof group);
    return group;
  }
};

template <class Mainloop, class T>
struct ConvMaxPoolKernelParams {
  using Acc = AccOf<T>;
  typename Mainloop::Params operands;
  PoolPatches patches;
  FastDivmod column_tiles;
  int32_t K;
  const Acc* scale;
  const Acc* bias;
  T* y;
  bool aligned;  // pieces of 8 channels of y are whole vectors
};

template <class Mainloop, class T>
union ConvMaxPoolStorage {
  typename Mainloop::Storage mainloop;
  ActivatedPatch<T, Mainloop::kRows> patch;
};

// grid: patches * column tiles
template <class Mainloop, class T>
__global__ void __launch_bounds__(Mainloop::kThreads, Mainloop::kBlocks)
    conv_max_pool_kernel(const __grid_constant__ ConvMaxPoolKernelParams<Mainloop, T> params) {
  using Acc = AccOf<T>;
  using Patches = PoolPatches;
  static_assert(Patches::kRows * Patches::kColumns <= Mainloop::kRows);
  auto& shared = dynamic_smem<ConvMaxPoolStorage<Mainloop, T>>();
  const PoolPatches& patches = params.patches;

  // Find this block's patch.
  GemmTile at{};
  const PoolPatch patch(patches, params.column_tiles.divide(int32_t(blockIdx.x), at.first_column));
  at.first_column *= Mainloop::kColumns;
  at.columns = params.K;

  // Multiply: the patch's pixels are the tile's rows.
  Mainloop tile;
  tile.run(params.operands, at, 0, shared.mainloop, [&](int32_t row) {
    const bool exists = row < Patches::kRows && uint32_t(patch.p + row) < uint32_t(patches.P);
    return params.operands.image.window(patch.n, patch.p + row, patch.q, 0, exists);
  });

  // Normalise, activate, and round as if it were stored.
  tile.for_each_column_pair([&](int column, auto&& for_each_row) {
    const int32_t channel = at.first_column + column;
    Acc scale[2], bias[2];
    RNC_UNROLL
    for (int e = 0; e < 2; ++e) {
      const bool exists = channel + e < params.K;
      scale[e] = exists ? ptx::load_global_nc(params.scale + channel + e) : Acc(0);
      bias[e] = exists ? ptx::load_global_nc(params.bias + channel + e) : Acc(0);
    }
    for_each_row([&](int row, Acc left, Acc right) {
      shared.patch.put(row, column,
                       {{narrow_to<T>(relu(affine(left, scale[0], bias[0]))),
                         narrow_to<T>(relu(affine(right, scale[1], bias[1])))}});
    });
  });
  __syncthreads();

  // Pool.
  constexpr int kGroups = Mainloop::kColumns / kGroupElements;
  constexpr int kPieces = Patches::kPooledRows * Patches::kPooledColumns * kGroups;
  for (int piece = int(threadIdx.x); piece < kPieces; piece += Mainloop::kThreads) {
    // [pieces] -> [pooled rows, pooled columns, groups]
    const int column = piece % kGroups * kGroupElements;
    const int j = piece / kGroups % Patches::kPooledColumns;
    const int i = piece / kGroups / Patches::kPooledColumns;
    const int32_t count = min(params.K - at.first_column - column, int32_t(kGroupElements));
    const int32_t pooled_p = patch.pooled_p + i, pooled_q = patch.pooled_q + j;
    if (count <= 0 || pooled_p >= patches.pooled_P || pooled_q >= patches.pooled_Q) continue;
    MaxOfGroup best;
    RNC_UNROLL
    for (int r = 0; r < Patches::kWindow; ++r) {
      RNC_UNROLL
      for (int s = 0; s < Patches::kWindow; ++s) {
        const int row = i * Patches::kStride + r, across = j * Patches::kStride + s;
        const bool inside = uint32_t(patch.p + row) < uint32_t(patches.P) &&
                            uint32_t(patch.q + across) < uint32_t(patches.Q);
        if (inside) best.take(shared.patch.words(row * Patches::kColumns + across, column));
      }
    }
    const int64_t pixel =
        (int64_t(patch.n) * patches.pooled_P + pooled_p) * patches.pooled_Q + pooled_q;
    best.template get<T>().store(params.y, pixel * params.K + at.first_column + column, count,
                                 params.aligned);
  }
}

}  // namespace rnc
