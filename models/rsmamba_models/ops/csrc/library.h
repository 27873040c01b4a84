// What the C interface's parts share: export mark, instruction sets, status, scratch memory.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(_WIN32)
#define RSMAMBA_EXPORT extern "C" __declspec(dllexport)
#else
#define RSMAMBA_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace rsmamba {

// Known to native.py by number.
enum Isa { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };
enum Status { kDone = 0, kNoMemory = 1, kBadOrder = 2, kNoSuchIsa = 3 };

inline bool cpu_has(int isa) {
#if defined(__x86_64__) || defined(__i386__)
  if (isa == kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
  }
  if (isa == kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == kBaseline;
}

// Asks the system for large pages where a large result will be written: touching fresh memory in
// pages of 4 KiB costs as much time as some of the kernels do. A system that has none is not asked
// twice, and memory that is in use already keeps its pages.
inline void expect_writes(void* start, std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kLarge = std::uintptr_t{1} << 21;
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::uintptr_t begin = (address + kLarge - 1) / kLarge * kLarge;
  const std::uintptr_t end = (address + static_cast<std::uintptr_t>(bytes)) / kLarge * kLarge;
  if (start && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(start);
  static_cast<void>(bytes);
#endif
}

// Memory aligned to cache lines that is given back on every way out; throws std::bad_alloc.
class Buffer {
 public:
  explicit Buffer(std::int64_t bytes)
      : memory_(std::malloc(static_cast<std::size_t>(bytes) + kLine), &std::free) {
    if (!memory_) throw std::bad_alloc();
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    start_ = reinterpret_cast<void*>((address + kLine - 1) / kLine * kLine);
    expect_writes(start_, bytes);
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(start_);
  }

 private:
  static constexpr std::size_t kLine = 64;
  std::unique_ptr<void, void (*)(void*)> memory_;
  void* start_;
};

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

inline std::int64_t round_line(std::int64_t floats) { return ceil_div(floats, 16) * 16; }

}  // namespace rsmamba
