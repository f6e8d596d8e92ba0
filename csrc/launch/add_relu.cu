#include "kernels/add_relu/add_relu.cuh"
#include "launch/kernel_library.h"
#include "launch/launch_kernel.h"

namespace rnc {

Status add_relu_forward(DType dtype, const AddReluForwardParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const bool aligned = is_vector_aligned(params.x) && is_vector_aligned(params.residual) &&
                         is_vector_aligned(params.z);
    const AddReluForwardKernelParams<T> kernel_params{params.size,
                                                      static_cast<const T*>(params.x),
                                                      static_cast<const T*>(params.residual),
                                                      static_cast<T*>(params.z),
                                                      params.mask,
                                                      aligned};
    return launch_kernel("add_relu_forward", add_relu_forward_kernel<T>,
                         Dim3{uint32_t(group_blocks(params.size)), 1, 1}, Dim3{kGroupThreads, 1, 1},
                         0, stream, kernel_params);
  });
}

Status add_relu_backward(DType dtype, const AddReluBackwardParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const bool aligned = is_vector_aligned(params.dz) && is_vector_aligned(params.dx);
    const AddReluBackwardKernelParams<T> kernel_params{
        params.size, static_cast<const T*>(params.dz), params.mask, static_cast<T*>(params.dx),
        aligned};
    return launch_kernel("add_relu_backward", add_relu_backward_kernel<T>,
                         Dim3{uint32_t(group_blocks(params.size)), 1, 1}, Dim3{kGroupThreads, 1, 1},
                         0, stream, kernel_params);
  });
}

}  // namespace rnc
