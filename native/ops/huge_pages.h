// Host memory that the kernel can back with huge pages. Weights are streamed: with pages of 4 KiB the page walks cost
// bandwidth, most where others use the memory too (docs/performance.md). Where there are no huge pages all of this works
// the same.
#pragma once
#include <cstddef>
#include <map>
#include <set>

namespace act {

/// Zero-filled pages of their own, aligned to a huge page; null when there is no memory.
void* map_huge(size_t bytes);
void unmap_huge(void* memory, size_t bytes) noexcept;

/// Blocks too small for huge pages of their own, cut from slabs of 32 MiB: first fit, free neighbors merged, a slab
/// given back when nothing of it is used. Not for several threads at once.
class Slabs {
 public:
  Slabs() = default;
  Slabs(const Slabs&) = delete;
  ~Slabs();
  /// Zero-filled, 64-byte aligned; at most a slab. Null when there is no memory.
  void* take(size_t bytes);
  void give_back(void* memory) noexcept;

 private:
  std::set<char*> slabs_;
  std::map<char*, size_t> free_, used_;  // bytes by address
};

}  // namespace act
