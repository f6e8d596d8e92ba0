// Writes a description that is within its limits into a tensor map: the CUDA driver does it on the
// GPU's side, on the host the emulator's own format is filled in. Like launch_kernel.h one of the
// places where the two sides differ.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "launch/tensor_map_description.h"
#include "ptx/tensor_map.cuh"

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include <cstdio>
#endif

namespace rnc {

#if defined(__CUDACC__)

namespace detail {

// A function of the driver, which is not linked: this library also loads on machines without one.
template <class Function>
Function* driver_function(const char* name) {
  constexpr unsigned kFirstVersionWithTensorMaps = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      name, &function, kFirstVersionWithTensorMaps, cudaEnableDefault, &found);
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess
             ? reinterpret_cast<Function*>(function)
             : nullptr;
}

inline CUtensorMapDataType data_type(TensorElement element) {
  switch (element) {
    case TensorElement::kUInt8:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case TensorElement::kInt32:
      return CU_TENSOR_MAP_DATA_TYPE_INT32;
    case TensorElement::kFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case TensorElement::kBfloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case TensorElement::kFloat32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case TensorElement::kTensorFloat32:
      return CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
    case TensorElement::kFloat64:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
  }
  return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

inline CUtensorMapSwizzle swizzle_mode(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::kNone:
      return CU_TENSOR_MAP_SWIZZLE_NONE;
    case Swizzle::k32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    case Swizzle::k64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case Swizzle::k128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
  }
  return CU_TENSOR_MAP_SWIZZLE_NONE;
}

inline Status encode_status(const char* function, CUresult result) {
  if (result == CUDA_SUCCESS) return Status{};
  thread_local char message[128];
  std::snprintf(message, sizeof message, "%s: the driver refuses the tensor map with error %d",
                function, static_cast<int>(result));
  return Status{message};
}

// Widens the L2's reads to whole lines: boxes are read in full.
inline constexpr CUtensorMapL2promotion kL2Promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;

}  // namespace detail

inline Status encode(CUtensorMap* map, const TiledTensorMap& description) {
  static auto* const function =
      detail::driver_function<decltype(cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  if (function == nullptr) return Status{"no CUDA driver of version 12.0 or newer: no tensor maps"};
  return detail::encode_status(
      "cuTensorMapEncodeTiled",
      function(map, detail::data_type(description.element), description.rank,
               const_cast<void*>(description.base), description.dims, description.strides_bytes,
               description.box, description.element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
               detail::swizzle_mode(description.swizzle), detail::kL2Promotion,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
}

inline Status encode(CUtensorMap* map, const Im2colTensorMap& description) {
  static auto* const function =
      detail::driver_function<decltype(cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  if (function == nullptr) return Status{"no CUDA driver of version 12.0 or newer: no tensor maps"};
  return detail::encode_status(
      "cuTensorMapEncodeIm2col",
      function(map, detail::data_type(description.element), description.rank,
               const_cast<void*>(description.base), description.dims, description.strides_bytes,
               description.lower, description.upper, description.channels, description.pixels,
               description.element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
               detail::swizzle_mode(description.swizzle), detail::kL2Promotion,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
}

#else

namespace detail {

template <class Description>
emulator::TensorMap encode_tensor(const Description& description) {
  emulator::TensorMap map{};
  map.base = reinterpret_cast<uint64_t>(description.base);
  map.rank = static_cast<uint8_t>(description.rank);
  map.element_bytes = static_cast<uint8_t>(size_of(description.element));
  map.swizzle = static_cast<uint8_t>(description.swizzle);
  map.rounds = description.element == TensorElement::kTensorFloat32;
  for (int i = 0; i < description.rank; ++i) {
    map.dims[i] = description.dims[i];
    map.element_strides[i] = static_cast<uint8_t>(i == 0 ? 1 : description.element_strides[i]);
    if (i > 0) map.strides[i - 1] = description.strides_bytes[i - 1];
  }
  emulator::seal(map);
  return map;
}

}  // namespace detail

inline Status encode(emulator::TensorMap* map, const TiledTensorMap& description) {
  *map = detail::encode_tensor(description);
  for (int i = 0; i < description.rank; ++i)
    map->box[i] = static_cast<uint16_t>(description.box[i]);
  return Status{};
}

inline Status encode(emulator::TensorMap* map, const Im2colTensorMap& description) {
  *map = detail::encode_tensor(description);
  map->im2col = 1;
  map->box[0] = static_cast<uint16_t>(description.channels);
  map->pixels = static_cast<uint16_t>(description.pixels);
  for (int i = 0; i < description.rank - 2; ++i) {
    map->lower[i] = static_cast<int16_t>(description.lower[i]);
    map->upper[i] = static_cast<int16_t>(description.upper[i]);
  }
  return Status{};
}

#endif

}  // namespace rnc
