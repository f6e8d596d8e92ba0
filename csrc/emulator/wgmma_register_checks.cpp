#include "emulator/wgmma_register_checks.h"

#include <algorithm>
#include <cstring>

#include "emulator/fiber.h"
#include "emulator/wgmma_queue.h"

namespace rnc::emulator {

namespace {

// A quiet NaN that no arithmetic produces.
constexpr uint32_t kInFlight = 0x7FBADBADu;

uint32_t thread_of(const Fiber& fiber) { return fiber.index % kWarpgroupThreads; }

bool overlap(const float* a, size_t count_a, const float* b, size_t count_b) {
  return a < b + count_b && b < a + count_a;
}

size_t first_difference(const void* a, const void* b, size_t words) {
  for (size_t i = 0; i < words; ++i) {
    if (std::memcmp(static_cast<const char*>(a) + 4 * i, static_cast<const char*>(b) + 4 * i, 4)) {
      return i;
    }
  }
  return words;
}

std::string shape(int32_t n, int32_t depth) { return format("m64n%dk%d", n, depth); }

[[gnu::cold, gnu::noinline]] void report_unordered(const Fiber& fiber, const char* registers,
                                                   size_t index, const void* pc) {
  report(&fiber, format("%s of wgmma (element %zu) was modified after wgmma.fence: fence again "
                        "before the wgmma",
                        registers, index) +
                     location(pc));
}

}  // namespace

bool WgmmaRegisterChecks::Accumulators::is_free() const {
  return std::find(in_flight, std::end(in_flight), true) == std::end(in_flight);
}

char* WgmmaRegisterChecks::Image::find(const void* registers, size_t bytes_wanted) {
  const auto offset = static_cast<size_t>(static_cast<const char*>(registers) - begin);
  if (offset > bytes.size() || bytes_wanted > bytes.size() - offset) return nullptr;
  return bytes.data() + offset;
}

void WgmmaRegisterChecks::clear() {
  accumulators_.clear();
  for (Image& image : images_) image.bytes.clear();
  for (std::vector<Use>& uses : uses_) uses.clear();
}

void WgmmaRegisterChecks::fence(const Fiber& fiber, const char* frame) {
  const uint32_t thread = thread_of(fiber);
  for (Accumulators& accumulators : accumulators_) {
    if (accumulators.in_flight[thread]) check_untouched(fiber, accumulators);
  }
  Image& image = images_[thread];
  image.begin = frame;
  image.bytes.assign(frame, static_cast<const char*>(fiber.stack) + kStackBytes);
  uses_[thread].clear();
}

void WgmmaRegisterChecks::check_ordered(const Fiber& fiber, const WgmmaOperation& operation) {
  const uint32_t thread = thread_of(fiber);
  const float* const registers = operation.accumulators[thread];
  const int32_t n = operation.instruction.n, depth = operation.depth();
  const auto count = static_cast<size_t>(n) / 2;
  bool used = false;
  for (const Use& use : uses_[thread]) {
    if (!overlap(registers, count, use.begin, static_cast<size_t>(use.n) / 2)) continue;
    if (use.begin == registers && use.n == n && use.depth == depth) {
      used = true;
      continue;
    }
    report(&fiber,
           "wgmma " + shape(n, depth) + " on accumulators of a wgmma " + shape(use.n, use.depth) +
               ": a different shape needs a wgmma.fence between them" + location(operation.pc));
  }
  if (!used) uses_[thread].push_back({registers, n, depth});
  // Accumulators that are only written have nothing to be ordered after, here.
  if (operation.instruction.accumulate) {
    if (const char* fenced = images_[thread].find(registers, count * sizeof(float))) {
      const size_t index = first_difference(registers, fenced, count);
      if (index != count) report_unordered(fiber, "accumulator register", index, operation.pc);
    }
  }
  if (operation.instruction.a_registers != nullptr) {
    const uint32_t* const a = operation.a_registers[thread];
    if (const char* fenced = images_[thread].find(a, sizeof operation.a_values[thread])) {
      const size_t index = first_difference(a, fenced, 4);
      if (index != 4) report_unordered(fiber, "A register", index, operation.pc);
    }
  }
}

WgmmaRegisterChecks::Accumulators& WgmmaRegisterChecks::find_or_add(const Fiber& fiber,
                                                                    WgmmaOperation& operation) {
  const uint32_t thread = thread_of(fiber);
  float* const registers = operation.accumulators[thread];
  const int32_t n = operation.instruction.n;
  if (operation.issued == 0) {  // the first thread decides for all
    size_t chosen = accumulators_.size();
    for (size_t i = 0; i < accumulators_.size(); ++i) {
      const Accumulators& known = accumulators_[i];
      if (known.is_free()) {
        if (chosen == accumulators_.size()) chosen = i;
      } else if (known.registers[thread] == registers && known.n == n) {
        chosen = i;
        break;
      }
    }
    if (chosen == accumulators_.size()) accumulators_.emplace_back();
    Accumulators& accumulators = accumulators_[chosen];
    if (accumulators.is_free()) {
      accumulators.n = n;
      accumulators.newest = 0;
      accumulators.values.resize(kWarpgroupThreads * accumulators.count());
    }
    operation.in_flight = static_cast<uint32_t>(chosen);
  }
  Accumulators& own = accumulators_[operation.in_flight];
  if (own.in_flight[thread] && own.registers[thread] != registers) {
    fail(
        "wgmma: this thread uses other accumulators than a wgmma in flight does, unlike the rest "
        "of its warpgroup" +
        location(operation.pc));
  }
  for (const Accumulators& other : accumulators_) {
    if (&other == &own || !other.in_flight[thread]) continue;
    if (!overlap(registers, own.count(), other.registers[thread], other.count())) continue;
    fail("wgmma " + shape(n, operation.depth()) +
         format(" on accumulators that a wgmma of N = %d in flight still writes: wgmma.wait_group "
                "first",
                other.n) +
         location(operation.pc));
  }
  return own;
}

bool WgmmaRegisterChecks::check_untouched(const Fiber& fiber, Accumulators& accumulators) {
  const uint32_t thread = thread_of(fiber);
  const float* const registers = accumulators.registers[thread];
  size_t index = 0;
  if (accumulators.hidden[thread]) {
    while (index < accumulators.count() && !std::memcmp(registers + index, &kInFlight, 4)) ++index;
  } else {
    index = first_difference(registers, accumulators.of_thread(thread), accumulators.count());
  }
  if (index == accumulators.count()) return true;
  report(&fiber,
         format("accumulator register of a wgmma in flight (element %zu) was written before "
                "wgmma.wait_group",
                index));
  return false;
}

// Both write the array and the image of it, which stands for what the program itself did.
void WgmmaRegisterChecks::hide(uint32_t thread, Accumulators& accumulators) {
  float* const registers = accumulators.registers[thread];
  for (size_t i = 0; i < accumulators.count(); ++i) {
    std::memcpy(registers + i, &kInFlight, sizeof kInFlight);
  }
  const size_t bytes = accumulators.count() * sizeof(float);
  if (char* image = images_[thread].find(registers, bytes)) std::memcpy(image, registers, bytes);
  accumulators.hidden[thread] = true;
}

void WgmmaRegisterChecks::show(uint32_t thread, Accumulators& accumulators) {
  float* const registers = accumulators.registers[thread];
  const size_t bytes = accumulators.count() * sizeof(float);
  std::memcpy(registers, accumulators.of_thread(thread), bytes);
  if (char* image = images_[thread].find(registers, bytes)) std::memcpy(image, registers, bytes);
  accumulators.hidden[thread] = false;
}

void WgmmaRegisterChecks::issue(const Fiber& fiber, WgmmaOperation& operation, uint64_t index) {
  const uint32_t thread = thread_of(fiber);
  Accumulators& accumulators = find_or_add(fiber, operation);
  if (!accumulators.in_flight[thread]) {
    accumulators.registers[thread] = operation.accumulators[thread];
    check_ordered(fiber, operation);
    std::memcpy(accumulators.of_thread(thread), accumulators.registers[thread],
                accumulators.count() * sizeof(float));
    accumulators.in_flight[thread] = true;
  } else if (check_untouched(fiber, accumulators)) {
    check_ordered(fiber, operation);
  }
  hide(thread, accumulators);
  accumulators.newest = std::max(accumulators.newest, index);  // some warps are ahead
  accumulators.newest_group[thread] = operation.group;
}

float* WgmmaRegisterChecks::values(const WgmmaOperation& operation) {
  return accumulators_[operation.in_flight].values.data();
}

void WgmmaRegisterChecks::show_computed(const Fiber* threads, uint64_t computed) {
  for (Accumulators& accumulators : accumulators_) {
    if (accumulators.newest >= computed) continue;
    for (uint32_t thread = 0; thread < kWarpgroupThreads; ++thread) {
      if (!accumulators.in_flight[thread] || !accumulators.hidden[thread]) continue;
      if (!is_live(threads[thread])) continue;  // its stack may be another thread's by now
      check_untouched(threads[thread], accumulators);
      show(thread, accumulators);
    }
  }
}

void WgmmaRegisterChecks::waited(const Fiber* threads, uint32_t warp, uint32_t groups) {
  for (Accumulators& accumulators : accumulators_) {
    for (uint32_t thread = warp * kWarpSize; thread < (warp + 1) * kWarpSize; ++thread) {
      if (!accumulators.in_flight[thread] || accumulators.newest_group[thread] >= groups) continue;
      check_untouched(threads[thread], accumulators);
      if (accumulators.hidden[thread]) show(thread, accumulators);
      accumulators.in_flight[thread] = false;
    }
  }
}

}  // namespace rnc::emulator
