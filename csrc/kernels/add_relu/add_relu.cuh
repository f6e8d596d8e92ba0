// z = relu(x + residual) and its backward. The forward moves three tensors and one bit per element,
// the backward two and the bits.
#pragma once

#include "kernels/fusion/activation.cuh"
#include "tile/element_group.cuh"

namespace rnc {

template <class T>
struct AddReluForwardKernelParams {
  int64_t size;
  const T* x;
  const T* residual;
  T* z;
  uint8_t* mask;
  bool aligned;
};

template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    add_relu_forward_kernel(const __grid_constant__ AddReluForwardKernelParams<T> params) {
  const GroupPosition at(params.size);
  if (at.count <= 0) return;
  // Load both addends.
  ElementGroup<T> x, residual;
  x.load(params.x, at.offset, at.count, params.aligned);
  residual.load(params.residual, at.offset, at.count, params.aligned);
  // Add and activate.
  unsigned bits = 0;
  RNC_UNROLL
  for (int e = 0; e < kGroupElements; ++e) {
    if (e >= at.count) break;
    const auto sum = x.widened(e) + residual.widened(e);
    if (relu_passes<T>(sum)) bits |= 1u << e;
    x.v[e] = narrow_to<T>(relu(sum));
  }
  // Store the group and its mask byte.
  x.store(params.z, at.offset, at.count, params.aligned);
  if (params.mask) ptx::store_global(params.mask + at.offset / kGroupElements, uint8_t(bits));
}

template <class T>
struct AddReluBackwardKernelParams {
  int64_t size;
  const T* dz;
  const uint8_t* mask;
  T* dx;
  bool aligned;
};

template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    add_relu_backward_kernel(const __grid_constant__ AddReluBackwardKernelParams<T> params) {
  const GroupPosition at(params.size);
  if (at.count <= 0) return;
  ElementGroup<T> gradient;
  gradient.load(params.dz, at.offset, at.count, params.aligned);
  gradient.gate(ptx::load_global_nc(params.mask + at.offset / kGroupElements));
  gradient.store(params.dx, at.offset, at.count, params.aligned);
}

}  // namespace rnc
