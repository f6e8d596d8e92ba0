// Batch norm in closed form between its passes over pixels, in float, each kernel once behind the
// one whose result it reads: what tests/mutation deletes from.
#include "../device_library/device_library.h"
#include "kernels/closed_form/vectors.cuh"
#include "launch/closed_form_kernels.h"

namespace rnc {
namespace {

constexpr GenerationNames kNames = {"fma", "mma", nullptr};

template <class Params>
Status launch_vectors(const char* name, void (*kernel)(Params), int64_t blocks,
                      const Params& params) {
  return launch_kernel(name, kernel, Dim3{uint32_t(blocks), 1, 1}, Dim3{kClosedFormThreads, 1, 1},
                       0, nullptr, params, {}, 1, Start::kEarly);
}

int64_t blocks_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

// buffers: partials, mean, output_mean, invstd, scale, bias, weight, sums, gram, shift; numbers:
// filters, channels, rows
Status finalize(const LaunchArguments& arguments) {
  const int32_t K = arguments.number(0), C = arguments.number(1);
  const RowCount rows = {double(arguments.number(2)), nullptr};
  const auto* const weight = arguments.buffer<const float>(6);
  const auto* const sums = arguments.buffer<const double>(7);
  auto* const partials = arguments.buffer<double>(0);
  const FilterLines<float> filters{weight, K, C, true};
  const Covariance covariance{
      arguments.buffer<const double>(8), sums, nullptr, C, true, true, rows};
  const FilterSums<float> epilogue{weight, K,       C, true, sums, arguments.buffer<const float>(9),
                                   rows,   partials};
  const Status status = launch_closed_form_product<Generation::kSm80>(
      kNames, K, C, filters, covariance, C, epilogue, nullptr);
  if (!status.ok()) return status;

  ClosedFormStatisticsParams<float> params{};
  params.K = K;
  params.C = C;
  params.tiles = int32_t(closed_form_tiles(C));
  params.partials = partials;
  params.sums = sums;
  params.rows = rows;
  params.eps = 1e-5;
  params.mean = arguments.buffer<double>(1);
  params.output_mean = arguments.buffer<double>(2);
  params.invstd = arguments.buffer<double>(3);
  params.scale = arguments.buffer<float>(4);
  params.bias = arguments.buffer<float>(5);
  return launch_vectors("statistics", closed_form_statistics_kernel<float>,
                        blocks_of(K > C ? K : C, kClosedFormThreads), params);
}

// buffers: dgamma, dweight, of_gradient, partials, constant, weight, product, sums, mean, gram,
// invstd; numbers: filters, channels, rows
Status backward(const LaunchArguments& arguments) {
  const int32_t K = arguments.number(0), C = arguments.number(1);
  const RowCount rows = {double(arguments.number(2)), nullptr};
  auto* const dgamma = arguments.buffer<double>(0);
  auto* const partials = arguments.buffer<double>(3);
  const auto* const weight = arguments.buffer<const float>(5);
  const auto* const product = arguments.buffer<const double>(6);
  const auto* const sums = arguments.buffer<const double>(7);
  const auto* const mean = arguments.buffer<const double>(8);
  const auto* const invstd = arguments.buffer<const double>(10);
  const ClosedFormBackwardReduceKernelParams<float> reduce{
      K, C, true, weight, product, sums, mean, nullptr, invstd, dgamma, nullptr};
  const Status reduced = launch_vectors("reduce", closed_form_backward_reduce_kernel<float>,
                                        blocks_of(K, kClosedFormFilters), reduce);
  if (!reduced.ok()) return reduced;

  const FilterLines<float> filters{weight, K, C, true};
  const Covariance covariance{
      arguments.buffer<const double>(9), mean, nullptr, C, false, true, rows};
  const FilterGradient<float> epilogue{weight,
                                       K,
                                       C,
                                       true,
                                       product,
                                       sums,
                                       mean,
                                       nullptr,
                                       nullptr,
                                       nullptr,
                                       {invstd, nullptr, dgamma, sums, rows},
                                       arguments.buffer<float>(1),
                                       arguments.buffer<float>(2),
                                       partials};
  const Status multiplied = launch_closed_form_product<Generation::kSm80>(
      kNames, K, C, filters, covariance, C, epilogue, nullptr);
  if (!multiplied.ok()) return multiplied;

  const ClosedFormConstantParams<float> constant{C, int32_t(closed_form_tiles(K)), partials,
                                                 arguments.buffer<float>(4)};
  return launch_vectors("constant", closed_form_constant_kernel<float>,
                        blocks_of(C, kClosedFormThreads), constant);
}

const KernelRegistration kRegistrations[] = {
    {"closed_form_finalize", finalize},
    {"closed_form_backward", backward},
};

}  // namespace
}  // namespace rnc
