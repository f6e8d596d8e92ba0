// The C API on a GPU.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>

#include "backend.h"
#include "device_library.h"

namespace {

const char* message_of(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

namespace rnc {

const char* wait_for_device() { return message_of(cudaDeviceSynchronize()); }

}  // namespace rnc

const char* rnc_device_backend() { return "cuda"; }

const char* rnc_device_describe(char* name, uint64_t name_bytes, int32_t* capability) {
  cudaDeviceProp properties = {};
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return message_of(error);
  std::snprintf(name, name_bytes, "%s", properties.name);
  *capability = properties.major * 10 + properties.minor;
  return nullptr;
}

void* rnc_device_malloc(uint64_t bytes, const char*, int32_t) {
  void* pointer = nullptr;
  return cudaMalloc(&pointer, bytes) == cudaSuccess ? pointer : nullptr;
}

void rnc_device_free(void* pointer) { cudaFree(pointer); }

const char* rnc_device_write(void* device, const void* host, uint64_t bytes) {
  return message_of(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
}

const char* rnc_device_read(void* host, const void* device, uint64_t bytes) {
  return message_of(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

const char* rnc_device_set_option(const char*, int64_t) {
  return "a GPU has none of the emulator's options";
}
