#include "files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace longhaul {
namespace {

Status cannot(const std::string& path, const char* what, int error) {
  return invalid_argument(path + ": " + what + ": " + std::generic_category().message(error));
}

struct Descriptor {
  explicit Descriptor(int fd) : fd(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  int fd;
};

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  // A NUL byte would open another path than the one in the message.
  if (path.find('\0') != std::string::npos) return invalid_argument("a file path must not contain a NUL byte");
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return invalid_argument(path + ": no such file");
    return cannot(path, "cannot be opened", errno);
  }
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return cannot(path, "cannot be examined", errno);
  if (S_ISDIR(info.st_mode)) return invalid_argument(path + ": is a directory, expected a file");
  if (!S_ISREG(info.st_mode)) return invalid_argument(path + ": is not a regular file");
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > static_cast<uint64_t>(PTRDIFF_MAX)) return invalid_argument(path + ": is too large to map");
  if (size == 0) return MappedFile(path, nullptr, 0);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) return cannot(path, "cannot be mapped into memory", errno);
  return MappedFile(path, static_cast<const std::byte*>(data), size);
}

MappedFile::MappedFile(std::string path, const std::byte* data, size_t size)
    : path_(std::move(path)), data_(data), size_(size) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(size_t offset, size_t bytes) const {
  if (offset >= size_ || bytes == 0) return;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = offset + std::min(bytes, size_ - offset);
  // The mapping is private and never written to, so the pages hold nothing but the file: dropping a neighbour's
  // part of the first or last page costs at most one more read. Failure would only leave the memory in use.
  (void)::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace longhaul
