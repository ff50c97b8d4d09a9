#include "huge_pages.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace act {
namespace {

constexpr size_t kHugePage = size_t{2} << 20, kSlab = size_t{32} << 20;

size_t mapped_size(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

}  // namespace

#ifdef __linux__
void* map_huge(size_t bytes) {
  const size_t size = mapped_size(bytes);
  void* raw = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  char* start = static_cast<char*>(raw);
  char* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(start) + kHugePage - 1) / kHugePage * kHugePage);
  if (aligned > start) munmap(start, static_cast<size_t>(aligned - start));
  char* const end = start + size + kHugePage;
  if (end > aligned + size) munmap(aligned + size, static_cast<size_t>(end - aligned - size));
  madvise(aligned, size, MADV_HUGEPAGE);  // a hint
  return aligned;
}

void unmap_huge(void* memory, size_t bytes) noexcept { munmap(memory, mapped_size(bytes)); }
#else
void* map_huge(size_t bytes) {
  void* const memory = std::aligned_alloc(kHugePage, mapped_size(bytes));
  return memory ? std::memset(memory, 0, bytes) : nullptr;
}

void unmap_huge(void* memory, size_t) noexcept { std::free(memory); }
#endif

Slabs::~Slabs() {
  for (char* slab : slabs_) unmap_huge(slab, kSlab);
}

void* Slabs::take(size_t bytes) {
  const size_t size = (bytes + 63) / 64 * 64;
  auto fit = free_.begin();
  while (fit != free_.end() && fit->second < size) ++fit;
  if (fit == free_.end()) {
    auto* const slab = static_cast<char*>(map_huge(kSlab));
    if (!slab) return nullptr;
    slabs_.insert(slab);
    fit = free_.emplace(slab, kSlab).first;
  }
  char* const memory = fit->first;
  used_.emplace(memory, size);
  auto rest = free_.extract(fit);
  rest.key() += size;
  rest.mapped() -= size;
  if (rest.mapped() > 0) free_.insert(std::move(rest));
  std::memset(memory, 0, size);
  return memory;
}

void Slabs::give_back(void* memory) noexcept {
  auto block = used_.extract(static_cast<char*>(memory));  // nodes move: nothing is allocated here
  const auto next = free_.lower_bound(block.key());
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == block.key() && !slabs_.contains(block.key())) {
      block.key() = before->first;
      block.mapped() += before->second;
      free_.erase(before);
    }
  }
  if (next != free_.end() && block.key() + block.mapped() == next->first && !slabs_.contains(next->first)) {
    block.mapped() += next->second;
    free_.erase(next);
  }
  if (block.mapped() < kSlab) {
    free_.insert(std::move(block));
    return;
  }
  slabs_.erase(block.key());
  unmap_huge(block.key(), kSlab);
}

}  // namespace act
