// Races, missing proxy fences and uninitialised reads in shared memory: two accesses to a byte, one
// of them a write, must be ordered by what the later thread knows (clock.h), whichever came first
// in this run. An asynchronous operation is judged when it is issued, with the epoch of its
// completion: what the emulator finds does not depend on when it moves the data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator/clock.h"

namespace rnc::emulator {

struct Fiber;

enum class Access : uint8_t { kRead, kWrite, kAtomic };

// The way an instruction reaches shared memory. Ordinary accesses, cp.async and ldmatrix are
// generic; TMA copies and the operands of wgmma are asynchronous.
enum class Proxy : uint8_t { kGeneric, kAsync };

// What the detector remembers about every piece of one block's shared memory.
class SharedShadow {
 public:
  // Forgets everything. Until a narrower access is seen, accesses are tracked in pieces of 16
  // bytes.
  void begin_launch();
  void begin_block(size_t bytes);

  // Judges an access, in bounds, at `offset`; `pc` is where it happened.
  void access(Fiber* fiber, size_t offset, size_t bytes, Access kind, const void* pc);

  // The same of an operation that `issuer` starts here and that is complete at `completion`.
  void async_access(Fiber* issuer, size_t offset, size_t bytes, Access kind, Proxy proxy,
                    Epoch completion, const void* pc);

 private:
  static constexpr uint32_t kReaders = 6;

  // Epochs of the last write and of some reads.
  struct Cell {
    Epoch write;
    int32_t write_pc = 0;
    int32_t read_pc = 0;
    Epoch reads[kReaders];
  };

  struct Request {
    Fiber* fiber;
    size_t bytes;
    Access kind;
    Proxy proxy;
    Epoch epoch;
    const void* pc;
  };

  void judge_all(const Request& request, size_t offset);
  void refine(uint32_t shift);
  bool judge(const Request& request, Cell& cell, size_t offset);
  void remember_read(const Request& request, Cell& cell);
  // Reports stay out of the hot functions.
  [[gnu::cold, gnu::noinline]] void uninitialised(const Request& request, size_t offset);
  [[gnu::cold, gnu::noinline]] void unfenced(const Request& request, const Cell& cell,
                                             size_t offset);
  [[gnu::cold, gnu::noinline]] void race(const Request& request, size_t offset, Epoch other,
                                         int32_t other_pc, bool other_reads);

  uint32_t shift_ = 0;  // log2 of the bytes per cell
  size_t bytes_ = 0;
  uint32_t next_victim_ = 0;  // reader to forget when there is no room
  std::vector<Cell> cells_;
};

}  // namespace rnc::emulator
