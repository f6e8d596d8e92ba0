// D[m, n] = A[m, k] B[n, k]^T by clusters of two blocks, and the column sums of every 128 rows of
// D; both float. k is a multiple of 8, n of 2.
#include "gemm_cluster.cuh"
#include "launch/launch_kernel.h"
#include "tensor_maps.h"

namespace rnc::reference {
namespace {

// buffers: d, column sums, a, b; numbers: m, n, k
template <class Element>
Status gemm(const LaunchArguments& arguments) {
  using Tile = GemmClusterTile<Element>;
  constexpr int32_t kDepth = kSliceElements<Element>;
  const int32_t m = arguments.number(0), n = arguments.number(1), k = arguments.number(2);
  GemmClusterParams params = {};
  params.d = arguments.buffer<float>(0);
  params.column_sums = arguments.buffer<float>(1);
  params.rows = m;
  params.columns = n;
  params.slices = int32_t(divide_up(k, kDepth));
  Status status = make_matrix_map<Element>(&params.a, arguments.buffer<const void>(2), m, k,
                                           Tile::kRows, kDepth);
  if (!status.ok()) return status;
  status = make_matrix_map<Element>(&params.b, arguments.buffer<const void>(3), n, k,
                                    Tile::kColumnsLoaded, kDepth);
  if (!status.ok()) return status;
  const uint32_t clusters = divide_up(m, Tile::kBlocks * Tile::kRows);
  const Dim3 grid = {clusters * Tile::kBlocks, divide_up(n, Tile::kColumns), 1};
  return launch_kernel("hopper_gemm_cluster", gemm_cluster_kernel<Tile>, grid,
                       Dim3{Tile::kThreads, 1, 1}, sizeof(GemmClusterStorage<Tile>), nullptr,
                       params, Dim3{Tile::kBlocks, 1, 1});
}

const KernelRegistration kRegistrations[] = {{"hopper_gemm_cluster_bfloat16", gemm<bfloat16>}};

}  // namespace
}  // namespace rnc::reference
