// What the reference kernels' C entry points have in common. They return null, or a message that
// stays valid until the next call on the same thread.
#pragma once

#include "common/status.h"

#define RNC_REFERENCE_API extern "C" __attribute__((visibility("default"))) const char*
