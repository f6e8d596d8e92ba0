// The torch-free face of the kernels: one function per pass. The same table exists three times:
// compiled by nvcc for the GPU (linked statically), and compiled by the host compiler for the
// emulator, plain and checked (shared libraries that are opened on demand).
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/status.h"
#include "kernels/add_relu/add_relu_params.h"
#include "kernels/batch_norm/batch_norm_params.h"
#include "kernels/bottleneck/bottleneck_params.h"
#include "kernels/closed_form/closed_form_params.h"
#include "kernels/conv/conv_params.h"
#include "kernels/pool/pool_params.h"

namespace rnc {

using Stream = void*;  // a cudaStream_t; ignored under emulation

//      stem                    params
#define RNC_FOR_EACH_PASS(X)                                         \
  X(conv_fprop, ConvFpropParams)                                     \
  X(conv_dgrad, ConvDgradParams)                                     \
  X(conv_wgrad, ConvWgradParams)                                     \
  X(conv_max_pool, ConvMaxPoolParams)                                \
  X(bottleneck_reduce, BottleneckReduceParams)                       \
  X(bottleneck_expand, BottleneckExpandParams)                       \
  X(bottleneck_expand_reduce, BottleneckExpandReduceParams)          \
  X(bottleneck_block, BottleneckBlockParams)                         \
  X(bottleneck_gram, BottleneckGramParams)                           \
  X(bottleneck_expand_wgrad, BottleneckExpandWgradParams)            \
  X(bottleneck_expand_dgrad, BottleneckExpandDgradParams)            \
  X(closed_form_finalize, ClosedFormFinalizeParams)                  \
  X(closed_form_backward_reduce, ClosedFormBackwardReduceParams)     \
  X(closed_form_backward_finalize, ClosedFormBackwardFinalizeParams) \
  X(bn_statistics, BnStatisticsParams)                               \
  X(bn_finalize, BnFinalizeParams)                                   \
  X(bn_apply, BnApplyParams)                                         \
  X(bn_backward_reduce, BnBackwardReduceParams)                      \
  X(bn_backward_finalize, BnBackwardFinalizeParams)                  \
  X(bn_backward_apply, BnBackwardApplyParams)                        \
  X(add_relu_forward, AddReluForwardParams)                          \
  X(add_relu_backward, AddReluBackwardParams)                        \
  X(max_pool_forward, MaxPoolForwardParams)                          \
  X(max_pool_backward, MaxPoolBackwardParams)                        \
  X(global_avg_pool_forward, GlobalAvgPoolForwardParams)             \
  X(global_avg_pool_backward, GlobalAvgPoolBackwardParams)

// Status conv_fprop(DType, const ConvFpropParams&, Stream), and so on. Launches are asynchronous;
// nothing is allocated.
#define RNC_DECLARE_PASS(stem, Params) \
  Status stem(DType dtype, const Params& params, Stream stream);
RNC_FOR_EACH_PASS(RNC_DECLARE_PASS)
#undef RNC_DECLARE_PASS

// Whether the device has one kernel for the whole block. Elsewhere it is three launches, which need
// room for what lies between them: params.reduced and params.convolved.
bool bottleneck_block_is_fused(DType dtype, const BottleneckBlockParams& params);

struct KernelLibrary {
#define RNC_PASS_POINTER(stem, Params) Status (*stem)(DType, const Params&, Stream);
  RNC_FOR_EACH_PASS(RNC_PASS_POINTER)
#undef RNC_PASS_POINTER
  bool (*bottleneck_block_is_fused)(DType, const BottleneckBlockParams&);
};

const KernelLibrary& kernel_library();

}  // namespace rnc

// What a shared library with emulated kernels exports.
extern "C" const rnc::KernelLibrary* rnc_kernel_library();
