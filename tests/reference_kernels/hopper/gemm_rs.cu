// D[m, n] = relu(scale[k] A[m, k] + shift[k]) B[n, k]^T with A in registers; D is float. k is a
// multiple of 8, n of 2.
#include "gemm_rs.cuh"
#include "launch/launch_kernel.h"
#include "tensor_maps.h"

namespace rnc::reference {
namespace {

// buffers: d, a, b, scale, shift; numbers: m, n, k
template <class Element>
Status gemm(const LaunchArguments& arguments) {
  using Tile = GemmRsTile<Element>;
  constexpr int32_t kDepth = kSliceElements<Element>;
  const int32_t m = arguments.number(0), n = arguments.number(1), k = arguments.number(2);
  GemmRsParams params = {};
  params.scale = arguments.buffer<const float>(3);
  params.shift = arguments.buffer<const float>(4);
  params.d = arguments.buffer<float>(0);
  params.rows = m;
  params.columns = n;
  params.depth = k;
  params.slices = int32_t(divide_up(k, kDepth));
  Status status = make_matrix_map<Element>(&params.a, arguments.buffer<const void>(1), m, k,
                                           Tile::kRows, kDepth);
  if (!status.ok()) return status;
  status = make_matrix_map<Element>(&params.b, arguments.buffer<const void>(2), n, k,
                                    Tile::kColumns, kDepth);
  if (!status.ok()) return status;
  const Dim3 grid = {divide_up(m, Tile::kRows), divide_up(n, Tile::kColumns), 1};
  return launch_kernel("hopper_gemm_rs", gemm_rs_kernel<Tile>, grid, Dim3{Tile::kThreads, 1, 1},
                       sizeof(GemmRsStorage<Tile>), nullptr, params);
}

const KernelRegistration kRegistrations[] = {
    {"hopper_gemm_rs_bfloat16", gemm<bfloat16>},
    {"hopper_gemm_rs_float16", gemm<float16>},
};

}  // namespace
}  // namespace rnc::reference
