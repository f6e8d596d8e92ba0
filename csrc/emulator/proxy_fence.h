// fence.proxy.async: generic accesses before it are ordered before asynchronous ones after it.
#pragma once

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

void fence_proxy_async();

#pragma GCC visibility pop

}  // namespace rnc::emulator
