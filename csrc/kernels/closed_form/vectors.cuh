// Batch norm in closed form by filter and by channel: what is left when the matrices are
// multiplied.
#pragma once

#include "kernels/closed_form/operands.cuh"
#include "kernels/conv/sum_splits.cuh"
#include "ptx/grid_dependency.cuh"

namespace rnc {

constexpr int kClosedFormThreads = 128;
constexpr int kClosedFormFilters = kClosedFormThreads / 32;  // a warp for each

template <class Acc>
struct ClosedFormStatisticsParams {
  int32_t K, C, tiles;
  const double* partials;  // [tiles][kClosedFormSums][K]
  const double* sums;      // [C]
  const double* own_sums;  // [C] or null
  RowCount rows;
  const Acc* gamma;
  const Acc* beta;
  Acc* running_mean;
  Acc* running_var;
  double momentum, eps;
  double *mean, *excess;         // [C]
  double *output_mean, *invstd;  // [K]
  Acc *scale, *bias;             // [K]
};

// One thread for each filter and each channel; grid: (threads of the longer)
template <class Acc>
__global__ void __launch_bounds__(kClosedFormThreads)
    closed_form_statistics_kernel(const __grid_constant__ ClosedFormStatisticsParams<Acc> params) {
  // Wait for the kernel that left the tiles' sums.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  const int32_t index = int32_t(blockIdx.x) * kClosedFormThreads + int32_t(threadIdx.x);
  const double rows = load_rows(params.rows), inverse = inverse_rows(params.rows);

  // The channel: its mean, and what the own rows exceed it by.
  if (index < params.C) {
    const double mean = ptx::load_global_input(params.sums + index) * inverse;
    ptx::store_global(params.mean + index, mean);
    if (params.own_sums) {
      const double own = ptx::load_global_input(params.own_sums + index);
      ptx::store_global(params.excess + index, own - params.rows.own * mean);
    }
  }
  if (index >= params.K) return;

  // The filter: add up the tiles in order.
  const auto total = [&](int which) {
    return sum_in_order(params.partials + int64_t(which) * params.K + index,
                        int64_t(kClosedFormSums) * params.K, params.tiles);
  };
  const double all = total(0), shifted_mean = total(1), mean = shifted_mean + total(2);
  const double squares = all < 0 ? 0 : all;  // NaN stays NaN

  // Write what the normalisation needs.
  const double invstd = 1.0 / sqrt(squares * inverse + params.eps);
  const double gamma = params.gamma ? double(ptx::load_global_input(params.gamma + index)) : 1.0;
  const double beta = params.beta ? double(ptx::load_global_input(params.beta + index)) : 0.0;
  const double scale = gamma * invstd;
  ptx::store_global(params.output_mean + index, mean);
  ptx::store_global(params.invstd + index, invstd);
  ptx::store_global(params.scale + index, Acc(scale));
  ptx::store_global(params.bias + index, Acc(beta - scale * shifted_mean));

  // Update the running statistics, with the unbiased variance.
  if (params.running_mean && rows > 0) {
    const double old_mean = double(ptx::load_global(params.running_mean + index));
    const double old_var = double(ptx::load_global(params.running_var + index));
    const double unbiased = squares / max(rows - 1.0, 1.0);
    ptx::store_global(params.running_mean + index,
                      Acc(old_mean + params.momentum * (mean - old_mean)));
    ptx::store_global(params.running_var + index,
                      Acc(old_var + params.momentum * (unbiased - old_var)));
  }
}

template <class T>
struct ClosedFormBackwardReduceKernelParams {
  int32_t K, C;
  bool aligned;
  const T* weight;        // [K][C]
  const double* product;  // [K][C]
  const double* sums;     // [K]
  const double* mean;     // [C]
  const double* excess;   // [C] or null
  const double* invstd;   // [K]
  double *dgamma, *moments;
};

// A warp for each filter.
template <class T>
__global__ void __launch_bounds__(kClosedFormThreads) closed_form_backward_reduce_kernel(
    const __grid_constant__ ClosedFormBackwardReduceKernelParams<T> params) {
  // Wait for the kernel that left the product.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  const int32_t filter = int32_t(blockIdx.x) * kClosedFormFilters + int32_t(threadIdx.x) / 32;
  if (filter >= params.K) return;
  const int32_t lane = int32_t(threadIdx.x) % 32;
  const double sum = ptx::load_global_input(params.sums + filter);

  // Add up the lane's channels.
  double of_gradient = 0, of_excess = 0;
  for (int32_t channel = lane * 2; channel < params.C; channel += 64) {
    const int64_t at = int64_t(filter) * params.C + channel;
    const Vec<T, 2> w = load_pair(params.weight + at, params.aligned);
    const Vec<double, 2> product = load_pair(params.product + at, params.aligned);
    const Vec<double, 2> mean = load_pair(params.mean + channel, params.aligned);
    Vec<double, 2> excess = {};
    if (params.excess) excess = load_pair(params.excess + channel, params.aligned);
    RNC_UNROLL
    for (int c = 0; c < 2; ++c) {
      const double element = double(widen(w.v[c]));
      of_gradient += (product.v[c] - sum * mean.v[c]) * element;
      of_excess += element * excess.v[c];
    }
  }
  // Add up the lanes.
  RNC_UNROLL
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    of_gradient += __shfl_xor_sync(~0u, of_gradient, lanes);
    of_excess += __shfl_xor_sync(~0u, of_excess, lanes);
  }
  if (lane > 0) return;
  const double invstd = ptx::load_global_input(params.invstd + filter);
  ptx::store_global(params.dgamma + filter, invstd * of_gradient);
  if (params.excess) ptx::store_global(params.moments + filter, of_excess);
}

template <class Acc>
struct ClosedFormConstantParams {
  int32_t C, tiles;
  const double* partials;  // [tiles][C]
  Acc* constant;           // [C]
};

// What the matrices add at the means, taken away again. One thread for each channel.
template <class Acc>
__global__ void __launch_bounds__(kClosedFormThreads)
    closed_form_constant_kernel(const __grid_constant__ ClosedFormConstantParams<Acc> params) {
  // Wait for the kernel that left the tiles' sums.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  const int32_t channel = int32_t(blockIdx.x) * kClosedFormThreads + int32_t(threadIdx.x);
  if (channel >= params.C) return;
  const double sum = sum_in_order(params.partials + channel, params.C, params.tiles);
  ptx::store_global(params.constant + channel, Acc(-sum));
}

}  // namespace rnc
