#include "emulator/proxy_fence.h"

#include "emulator/fiber.h"

namespace rnc::emulator {

void fence_proxy_async() {
  Fiber& fiber = *self();
  if (!launch_of(&fiber).check_shared) return;
  fiber.clock.fenced = fiber.clock.known;
  fiber.clock.own_fenced = fiber.clock.own++;
}

}  // namespace rnc::emulator
