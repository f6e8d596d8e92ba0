#include "kernels/batch_norm/batch_norm_apply.cuh"
#include "kernels/batch_norm/batch_norm_finalize.cuh"
#include "kernels/batch_norm/batch_norm_tiles.cuh"
#include "launch/kernel_library.h"
#include "launch/launch_kernel.h"

namespace rnc {
namespace {

Dim3 tile_grid(int64_t rows, int32_t C) {
  return {uint32_t(stats_tiles(rows)),
          uint32_t((C + StatsPieces::kColumns - 1) / StatsPieces::kColumns), 1};
}

Dim3 finalize_grid(int32_t C) {
  return {uint32_t((C + FinalizeTile::kChannels - 1) / FinalizeTile::kChannels), 1, 1};
}

constexpr Dim3 kTileBlock = {StatsPieces::kThreads, 1, 1};
constexpr Dim3 kFinalizeBlock = {FinalizeTile::kThreads, 1, 1};
constexpr Dim3 kGroupBlock = {kGroupThreads, 1, 1};

}  // namespace

Status bn_statistics(DType dtype, const BnStatisticsParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    const BnStatisticsKernelParams<T> kernel_params{
        params.rows, params.C, static_cast<const T*>(params.y), static_cast<Acc*>(params.partials),
        is_vector_aligned(params.y) && rows_are_vectors<T>(params.C)};
    return launch_kernel("bn_statistics", bn_statistics_kernel<T>, tile_grid(params.rows, params.C),
                         kTileBlock, sizeof(ColumnSums<Acc, StatsPieces>), stream, kernel_params);
  });
}

Status bn_finalize(DType dtype, const BnFinalizeParams& params, Stream stream) {
  if (params.rows < 2)
    return {"bn_finalize: batch statistics need more than one value per channel"};
  return visit_dtype(dtype, [&](auto type) {
    using Acc = AccOf<decltype(type)>;
    const BnFinalizeKernelParams<Acc> kernel_params{params.rows,
                                                    stats_tiles(params.rows),
                                                    params.C,
                                                    static_cast<const Acc*>(params.partials),
                                                    static_cast<const Acc*>(params.gamma),
                                                    static_cast<const Acc*>(params.beta),
                                                    static_cast<Acc*>(params.running_mean),
                                                    static_cast<Acc*>(params.running_var),
                                                    params.momentum,
                                                    params.eps,
                                                    static_cast<Acc*>(params.mean),
                                                    static_cast<Acc*>(params.invstd),
                                                    static_cast<Acc*>(params.scale),
                                                    static_cast<Acc*>(params.bias)};
    return launch_kernel("bn_finalize", bn_finalize_kernel<Acc>, finalize_grid(params.C),
                         kFinalizeBlock, sizeof(FinalizeStorage), stream, kernel_params, {}, 1,
                         Start::kEarly);
  });
}

Status bn_apply(DType dtype, const BnApplyParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    const int64_t size = params.rows * params.C;
    const ResidualSampling& sampling = params.residual_sampling;
    const bool aligned = are_vector_aligned({params.y, params.residual, params.z}) &&
                         (sampling.is_dense() ||
                          (params.C % kGroupElements == 0 && rows_are_vectors<T>(sampling.C)));
    const BnApplyKernelParams<T> kernel_params{size,
                                               FastDivmod(params.C),
                                               static_cast<const T*>(params.y),
                                               static_cast<const Acc*>(params.scale),
                                               static_cast<const Acc*>(params.bias),
                                               {params.residual, sampling},
                                               static_cast<const Acc*>(params.residual_scale),
                                               static_cast<T*>(params.z),
                                               params.mask,
                                               params.relu,
                                               aligned};
    return launch_kernel("bn_apply", bn_apply_kernel<T>, Dim3{uint32_t(group_blocks(size)), 1, 1},
                         kGroupBlock, 0, stream, kernel_params);
  });
}

Status bn_backward_reduce(DType dtype, const BnBackwardReduceParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    const bool aligned = is_vector_aligned(params.dz) && is_vector_aligned(params.y) &&
                         rows_are_vectors<T>(params.C);
    const BnBackwardReduceKernelParams<T> kernel_params{params.rows,
                                                        params.C,
                                                        static_cast<const T*>(params.dz),
                                                        static_cast<const T*>(params.y),
                                                        static_cast<const Acc*>(params.mean),
                                                        params.gate,
                                                        static_cast<Acc*>(params.partials),
                                                        aligned};
    return launch_kernel("bn_backward_reduce", bn_backward_reduce_kernel<T>,
                         tile_grid(params.rows, params.C), kTileBlock,
                         sizeof(ColumnSums<Acc, StatsPieces>), stream, kernel_params);
  });
}

Status bn_backward_finalize(DType dtype, const BnBackwardFinalizeParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using Acc = AccOf<decltype(type)>;
    const BnBackwardFinalizeKernelParams<Acc> kernel_params{
        params.rows,
        params.tiles,
        params.C,
        static_cast<const Acc*>(params.partials),
        static_cast<const Acc*>(params.gamma),
        static_cast<const Acc*>(params.mean),
        static_cast<const Acc*>(params.invstd),
        params.training,
        static_cast<Acc*>(params.dgamma),
        static_cast<Acc*>(params.dbeta),
        static_cast<Acc*>(params.coefficients)};
    return launch_kernel("bn_backward_finalize", bn_backward_finalize_kernel<Acc>,
                         finalize_grid(params.C), kFinalizeBlock, sizeof(FinalizeStorage), stream,
                         kernel_params, {}, 1, Start::kEarly);
  });
}

Status bn_backward_apply(DType dtype, const BnBackwardApplyParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    const int64_t size = params.rows * params.C;
    const bool is_flat = params.addend_stride == 1 && params.addend_C == params.C;
    const bool aligned =
        are_vector_aligned({params.dz, params.y, params.addend, params.dy, params.dresidual}) &&
        (is_flat || (params.C % kGroupElements == 0 && rows_are_vectors<T>(params.addend_C)));
    const BnBackwardApplyKernelParams<T> kernel_params{
        size,
        FastDivmod(params.C),
        static_cast<const T*>(params.dz),
        static_cast<const T*>(params.y),
        params.gate,
        static_cast<const Acc*>(params.coefficients),
        BranchGradient<T>::of(params.addend, nullptr, params.addend_C, params.H, params.W,
                              params.addend_stride),
        static_cast<T*>(params.dy),
        static_cast<T*>(params.dresidual),
        aligned};
    return launch_kernel("bn_backward_apply", bn_backward_apply_kernel<T>,
                         Dim3{uint32_t(group_blocks(size)), 1, 1}, kGroupBlock, 0, stream,
                         kernel_params);
  });
}

}  // namespace rnc
