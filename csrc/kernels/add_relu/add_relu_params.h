#pragma once

#include <cstdint>

namespace rnc {

// z = relu(x + residual)
struct AddReluForwardParams {
  int64_t size;
  const void* x;         // T [size]
  const void* residual;  // T [size]
  void* z;               // T [size]
  uint8_t* mask;         // [ceil(size / 8)] or null: bit i % 8 of byte i / 8 = not (z[i] <= 0)
};

// dx = dz where the mask is set, else 0; it is the gradient of both addends
struct AddReluBackwardParams {
  int64_t size;
  const void* dz;       // T [size]
  const uint8_t* mask;  // [ceil(size / 8)]
  void* dx;             // T [size]
};

}  // namespace rnc
