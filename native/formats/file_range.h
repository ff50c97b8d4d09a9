// Bytes of a file into memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace act {

/// Reads exactly `length` bytes from `offset` on. Read rather than mapped: a file that shrinks or sits on a failing
/// disk then gives an error, where a mapping would end the process with a signal. Throws Error FILE_FAILED.
std::vector<std::byte> read_file_range(const std::string& path, uint64_t offset, uint64_t length);

}  // namespace act
