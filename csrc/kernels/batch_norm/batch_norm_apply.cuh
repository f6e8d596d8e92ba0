// Batch norm's elementwise passes over y [rows, C], read as one run of elements: z = relu?(y scale
// + bias + residual) and the backward dy = c0 g + (c1 (y - c3) + c2) + addend.
#pragma once

#include "common/fast_divmod.h"
#include "kernels/batch_norm/relu_gate.cuh"
#include "kernels/fusion/branch_gradient.cuh"
#include "kernels/fusion/sampled_residual.cuh"
#include "tile/element_group.cuh"

namespace rnc {

// The rows and channels of consecutive elements, without a 64-bit division per element.
struct ChannelWalk {
  int64_t row;
  int32_t channel, C;

  __device__ __forceinline__ ChannelWalk(const FastDivmod& by_channels)
      : C(int32_t(by_channels.divisor)) {
    // [rows C] -> [rows, C]: of the block's first element, then of the thread's.
    const int64_t first = int64_t(blockIdx.x) * kGroupBlockElements;
    row = first / C;
    const int32_t within = int32_t(first % C) + int32_t(threadIdx.x) * kGroupElements;
    row += by_channels.divide(within, channel);
  }
  __device__ __forceinline__ void next() {
    ++channel;
    if (channel < C) return;
    channel = 0;
    ++row;
  }
};

template <class T>
struct BnApplyKernelParams {
  int64_t size;
  FastDivmod by_channels;
  const T* y;
  const AccOf<T>* scale;
  const AccOf<T>* bias;
  SampledResidual<T> residual;
  const AccOf<T>* residual_scale;
  T* z;
  uint8_t* mask;
  bool relu, aligned;
};

// Loads what a tensor of another shape adds to a group of elements: load(piece, row, channel,
// count) has `count` channels of one row. Whole groups where they lie in one, else element by
// element.
template <class T, class Load>
__device__ __forceinline__ void load_by_rows(ElementGroup<T>& out, const GroupPosition& at,
                                             ChannelWalk walk, bool aligned, Load&& load) {
  if (aligned) {
    load(out, walk.row, walk.channel, at.count);
    return;
  }
  RNC_UNROLL
  for (int e = 0; e < kGroupElements; ++e) {
    if (e >= at.count) break;
    ElementGroup<T> one;
    load(one, walk.row, walk.channel, 1);
    out.v[e] = one.v[0];
    walk.next();
  }
}

template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    bn_apply_kernel(const __grid_constant__ BnApplyKernelParams<T> params) {
  using Acc = AccOf<T>;
  const GroupPosition at(params.size);
  if (at.count <= 0) return;
  // Load the group.
  ElementGroup<T> y, residual;
  y.load(params.y, at.offset, at.count, params.aligned);
  ChannelWalk walk(params.by_channels);
  if (params.residual.is_dense()) {
    residual.load(params.residual.values, at.offset, at.count, params.aligned);
  } else if (params.residual.values) {
    load_by_rows(residual, at, walk, params.aligned,
                 [&](ElementGroup<T>& piece, int64_t row, int32_t channel, int count) {
                   params.residual.load_sampled(piece, row, channel, count, params.aligned);
                 });
  }
  // Normalise, add, activate.
  unsigned bits = 0;
  RNC_UNROLL
  for (int e = 0; e < kGroupElements; ++e) {
    if (e >= at.count) break;
    Acc v = affine(y.widened(e), ptx::load_global_nc(params.scale + walk.channel),
                   ptx::load_global_nc(params.bias + walk.channel));
    if (params.residual.values) {
      const Acc scale = params.residual_scale
                            ? ptx::load_global_nc(params.residual_scale + walk.channel)
                            : Acc(1);
      v = affine(residual.widened(e), scale, v);
    }
    if (relu_passes<T>(v)) bits |= 1u << e;
    y.v[e] = narrow_to<T>(params.relu ? relu(v) : v);
    walk.next();
  }
  // Store the group and its mask byte.
  y.store(params.z, at.offset, at.count, params.aligned);
  if (params.mask) ptx::store_global(params.mask + at.offset / kGroupElements, uint8_t(bits));
}

template <class T>
struct BnBackwardApplyKernelParams {
  int64_t size;
  FastDivmod by_channels;
  const T* dz;
  const T* y;
  ReluGate gate;
  const AccOf<T>* coefficients;  // [kBnCoefficients][C]
  BranchGradient<T> addend;
  T* dy;
  T* dresidual;
  bool aligned;
};

// Blocks that share a multiprocessor: of double three, as the compiler would spill to have a
// fourth; of the others (0) as many as it finds room for.
template <class T>
constexpr int kBackwardApplyBlocks = sizeof(T) == 8 ? 3 : 0;

template <class T>
__global__ void __launch_bounds__(kGroupThreads, kBackwardApplyBlocks<T>)
    bn_backward_apply_kernel(const __grid_constant__ BnBackwardApplyKernelParams<T> params) {
  using Acc = AccOf<T>;
  const GroupPosition at(params.size);
  if (at.count <= 0) return;
  const ReluGateView<T> gate(params.gate);
  // Load the group.
  ElementGroup<T> gradient, y, addend, dy;
  gradient.load(params.dz, at.offset, at.count, params.aligned);
  y.load(params.y, at.offset, at.count, params.aligned);
  ChannelWalk walk(params.by_channels);
  if (params.addend.is_dense() && params.addend.channels == walk.C) {
    addend.load(params.addend.values, at.offset, at.count, params.aligned);
  } else if (params.addend.values) {
    load_by_rows(addend, at, walk, params.aligned,
                 [&](ElementGroup<T>& piece, int64_t row, int32_t channel, int count) {
                   if (!params.addend.load(piece, row, channel, count, params.aligned)) {
                     piece.gate(0);
                   }
                 });
  }
  // Pass the gradient through the ReLU and the normalisation.
  const int64_t C = walk.C;
  RNC_UNROLL
  for (int e = 0; e < kGroupElements; ++e) {
    if (e >= at.count) break;
    const Acc* c = params.coefficients + walk.channel;
    const Acc g =
        gate.passes(at.offset + e, walk.channel, y.widened(e)) ? gradient.widened(e) : Acc(0);
    Acc v = bn_gradient(g, y.widened(e), ptx::load_global_nc(c), ptx::load_global_nc(c + C),
                        ptx::load_global_nc(c + 2 * C), ptx::load_global_nc(c + 3 * C));
    if (params.addend.values) v += addend.widened(e);
    dy.v[e] = narrow_to<T>(v);
    gradient.v[e] = narrow_to<T>(g);
    walk.next();
  }
  // Store dy, and the residual's gradient where there is a residual.
  dy.store(params.dy, at.offset, at.count, params.aligned);
  if (params.dresidual) gradient.store(params.dresidual, at.offset, at.count, params.aligned);
}

}  // namespace rnc
