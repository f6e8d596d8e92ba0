// The kernels as nvcc compiled them: on a GPU they compute, without one a launch is refused with a
// message.
#include <cuda_runtime_api.h>

#include <cstring>
#include <iostream>
#include <vector>

#include "launch/kernel_library.h"

namespace {

int fail(const char* what, const char* why) {
  std::cerr << what << ": " << why << "\n";
  return 1;
}

int refuse_without_gpu() {
  rnc::AddReluForwardParams params{};
  params.size = 1;
  const rnc::Status status =
      rnc::kernel_library().add_relu_forward(rnc::DType::kFloat32, params, nullptr);
  if (status.ok()) return fail("a launch without a GPU", "reported success");
  if (!std::strstr(status.error, "add_relu_forward")) return fail("no kernel named", status.error);
  std::cout << "no GPU; the launch was refused: " << status.error << "\n";
  return 0;
}

int compute_on_gpu() {
  constexpr int kSize = 1000;
  std::vector<float> x(kSize), z(kSize);
  for (int i = 0; i < kSize; ++i) x[i] = float(i % 17 - 8);
  float* device = nullptr;
  cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&device), 2 * kSize * sizeof(float));
  if (error != cudaSuccess) return fail("cudaMalloc", cudaGetErrorString(error));
  error = cudaMemcpy(device, x.data(), kSize * sizeof(float), cudaMemcpyHostToDevice);
  if (error != cudaSuccess) return fail("cudaMemcpy to the GPU", cudaGetErrorString(error));

  rnc::AddReluForwardParams params{};
  params.size = kSize;
  params.x = device;
  params.residual = device;
  params.z = device + kSize;
  const rnc::Status status =
      rnc::kernel_library().add_relu_forward(rnc::DType::kFloat32, params, nullptr);
  if (!status.ok()) return fail("add_relu_forward", status.error);
  error = cudaMemcpy(z.data(), device + kSize, kSize * sizeof(float), cudaMemcpyDeviceToHost);
  if (error != cudaSuccess) return fail("cudaMemcpy from the GPU", cudaGetErrorString(error));
  cudaFree(device);
  for (int i = 0; i < kSize; ++i) {
    if (z[i] != (x[i] > 0 ? 2 * x[i] : 0)) return fail("add_relu_forward", "wrong result");
  }
  std::cout << "computed on the GPU\n";
  return 0;
}

}  // namespace

int main() {
  int devices = 0;
  const bool has_gpu = cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
  return has_gpu ? compute_on_gpu() : refuse_without_gpu();
}
