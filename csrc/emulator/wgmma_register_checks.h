// What checked launches hold against a kernel about the registers that wgmma reads and writes
// behind the program's back. On the host they are arrays on the threads' stacks.
//
// While accumulators are in flight their values are kept here, and the array holds a NaN pattern:
// reading it gives NaN, writing it is found out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rnc::emulator {

struct Fiber;
struct WgmmaOperation;

class WgmmaRegisterChecks {
 public:
  void clear();

  // A thread executes wgmma.fence: accesses of its registers up to here are ordered. `frame` is
  // where the caller's part of the stack begins.
  void fence(const Fiber& fiber, const char* frame);

  // A thread issues the operation, number `index`: its registers must be as the fence left them.
  // Takes charge of the accumulators.
  void issue(const Fiber& fiber, WgmmaOperation& operation, uint64_t index);

  // The values of the operation's accumulators, n / 2 of each thread.
  float* values(const WgmmaOperation& operation);

  // Operations were computed before anybody waits: their accumulators show it.
  void show_computed(const Fiber* threads, uint64_t computed);

  // A warp has waited for the groups before `groups`: gives it back what is complete.
  void waited(const Fiber* threads, uint32_t warp, uint32_t groups);

 private:
  // The same array in each of the 128 threads.
  struct Accumulators {
    int32_t n = 0;
    uint64_t newest = 0;              // operation that uses them
    uint32_t newest_group[128] = {};  // of those that the thread has issued
    float* registers[128] = {};
    bool hidden[128] = {};     // the array holds the NaN pattern
    bool in_flight[128] = {};  // the thread has not waited yet
    std::vector<float> values;

    size_t count() const { return static_cast<size_t>(n) / 2; }  // per thread
    float* of_thread(uint32_t thread) { return values.data() + thread * count(); }
    bool is_free() const;
  };
  // Accumulators that a thread gave to an operation since its last fence.
  struct Use {
    const float* begin;
    int32_t n;
    int32_t depth;
  };
  // What a thread's stack held at its last fence, kept up to date with what wgmma writes.
  struct Image {
    const char* begin = nullptr;
    std::vector<char> bytes;

    char* find(const void* registers, size_t bytes_wanted);
  };

  Accumulators& find_or_add(const Fiber& fiber, WgmmaOperation& operation);
  void check_ordered(const Fiber& fiber, const WgmmaOperation& operation);
  bool check_untouched(const Fiber& fiber, Accumulators& accumulators);
  void hide(uint32_t thread, Accumulators& accumulators);
  void show(uint32_t thread, Accumulators& accumulators);

  std::vector<Accumulators> accumulators_;
  Image images_[128];
  std::vector<Use> uses_[128];
};

}  // namespace rnc::emulator
