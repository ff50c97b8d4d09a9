#include "file_range.h"

#include <filesystem>
#include <fstream>

#include "../ops/ops.h"

namespace act {

std::vector<std::byte> read_file_range(const std::string& path, uint64_t offset, uint64_t length) {
  // Paths come from JavaScript as UTF-8, which not every platform takes for a narrow string.
  std::ifstream file(std::filesystem::path(std::u8string(path.begin(), path.end())), std::ios::binary);
  if (!file) throw Error("FILE_FAILED", "Failed opening " + path + ". Check that it exists and may be read.");
  std::vector<std::byte> bytes(length);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(length));
  if (!file) {
    throw Error("FILE_FAILED", "Failed reading " + std::to_string(length) + " bytes at " + std::to_string(offset) +
                                   " of " + path + ": the file is shorter or damaged. Fetch it again.");
  }
  return bytes;
}

}  // namespace act
