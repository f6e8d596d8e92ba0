// Whether kernels start early that may (launch/launch_kernel.h). Results do not depend on it: it is
// there to be switched off and on where the two are timed in turn.
#pragma once

#include <atomic>

namespace rnc {

inline std::atomic<bool> early_start_is_on{true};

}  // namespace rnc
