#include "cuda/failure.h"

#include <string>

namespace longhaul::cuda {

Status failure_status(uint64_t word) {
  if (word == kNoFailure) return {};
  const std::string where = std::to_string(word >> 48);
  const std::string needed = std::to_string(word >> 22 & 0x3fffff);
  const std::string available = std::to_string(word & 0x3fffff);
  switch (static_cast<FailureKind>(word >> 44 & 0xf)) {
    case FailureKind::kPagesExhausted:
      return internal_error("append: page reservation exhausted: sequence " + where + " needs " + needed +
                            " pages and has " + available);
    case FailureKind::kPageTableFull:
      return internal_error("append: page table of sequence " + where + " is full");
    case FailureKind::kRowsBeyondCapacity:
      return internal_error("select: head " + where + " has " + needed + " rows and kept has room for " +
                            available);
    case FailureKind::kCopyPagesExhausted:
      return internal_error("copy_rows: page reservation exhausted: the target needs " + needed +
                            " pages and has " + available);
    case FailureKind::kCopyTableFull:
      return internal_error("copy_rows: page table of the target is full");
  }
  return internal_error("a kernel left a failure that nobody knows: " + std::to_string(word));
}

}  // namespace longhaul::cuda
