// The tensor map that TMA instructions take. A kernel gets it inside its parameters, which are
// __grid_constant__, so that its address is one the TMA unit can read.
#pragma once

#if defined(__CUDACC__)
#include <cuda.h>
#else
#include "emulator/tensor_map.h"
#endif

namespace rnc::ptx {

#if defined(__CUDACC__)
using TensorMap = CUtensorMap;
#else
using TensorMap = emulator::TensorMap;
#endif

}  // namespace rnc::ptx
