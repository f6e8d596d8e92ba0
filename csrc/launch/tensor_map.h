// Makes tensor maps, which tell the TMA unit what a tensor and its boxes look like: once per
// launch, passed to the kernel inside its parameters.
#pragma once

#include "common/status.h"
#include "launch/encode_tensor_map.h"
#include "launch/tensor_map_description.h"
#include "launch/tensor_map_limits.h"
#include "ptx/tensor_map.cuh"

namespace rnc {

// Both return an error that names the first field out of its range, its value and what is accepted;
// the same on the GPU and under emulation.

inline Status make_tiled_tensor_map(ptx::TensorMap* map, const TiledTensorMap& description) {
  const Status status = check_limits(description);
  return status.ok() ? encode(map, description) : status;
}

inline Status make_im2col_tensor_map(ptx::TensorMap* map, const Im2colTensorMap& description) {
  const Status status = check_limits(description);
  return status.ok() ? encode(map, description) : status;
}

}  // namespace rnc
