#include "report.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace longhaul::bench {
namespace {

struct Caches {
  double own;     // bytes that a core's second-level cache holds
  double shared;  // bytes that the last-level cache holds, for all threads
};

// Where the system does not tell, the least that servers have.
Caches caches() {
  const long own = ::sysconf(_SC_LEVEL2_CACHE_SIZE), shared = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return {own > 0 ? static_cast<double>(own) : 512e3, shared > 0 ? static_cast<double>(shared) : 8e6};
}

const Ceiling* find(const std::vector<Ceiling>& ceilings, const std::string& name) {
  for (const Ceiling& ceiling : ceilings) {
    if (ceiling.name == name) return &ceiling;
  }
  return nullptr;
}

// Names are the bench's own and need no escapes; messages may hold quotes.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

}  // namespace

Verdict judge(const OpCase& c, const std::vector<Ceiling>& ceilings, const std::string& isa, int threads) {
  const Caches sizes = caches();
  const bool small = c.place == Place::kCache && c.bytes / threads <= sizes.own / 2;
  const bool large = c.place == Place::kCache && c.bytes <= sizes.shared;
  Verdict v;
  v.read = find(ceilings, small ? "read.cache" : large ? "read.shared-cache" : "read.memory");
  if (v.read == nullptr) v.read = find(ceilings, "read.memory");  // of a GPU nothing else is measured
  if (c.dot_products && c.dtype == DType::kBf16) v.compute = find(ceilings, "bf16." + isa);
  // The kernels of avx512bf16 are those of avx512 but for dot products.
  if (v.compute == nullptr) v.compute = find(ceilings, "f32." + (isa == "avx512bf16" ? "avx512" : isa));
  const double read_seconds = v.read == nullptr ? 0 : c.bytes / v.read->best;
  const double compute_seconds = v.compute == nullptr ? 0 : c.flops / v.compute->best;
  v.bound = compute_seconds > read_seconds ? v.compute : v.read;
  v.least_seconds = std::max(read_seconds, compute_seconds);
  return v;
}

void print_ceiling(const Ceiling& ceiling, bool json) {
  if (json) {
    std::printf(
        "{\"kind\":\"ceiling\",\"name\":%s,\"threads\":%d,\"unit\":%s,\"detail\":%s,\"best\":%.6g,\"median\":%."
        "6g}"
        "\n",
        quoted(ceiling.name).c_str(), ceiling.threads, quoted(ceiling.unit).c_str(),
        quoted(ceiling.detail).c_str(), ceiling.best, ceiling.median);
  } else {
    std::printf("%-20s threads %2d  best %8.1f  median %8.1f  G%s  (%s)\n", ceiling.name.c_str(),
                ceiling.threads, ceiling.best / 1e9, ceiling.median / 1e9, ceiling.unit.c_str(),
                ceiling.detail.c_str());
  }
  std::fflush(stdout);
}

void print_case(const OpCase& c, const std::string& device, int threads, const Timing& t, const Verdict& v,
                bool json) {
  const char* bound = v.bound == nullptr ? "" : v.bound->name.c_str();
  const double percent = 100 * v.least_seconds / t.median;
  const double percent_best = 100 * v.least_seconds / t.best;
  if (json) {
    std::printf(
        "{\"kind\":\"op\",\"op\":%s,\"model\":%s,\"case\":%s,\"dtype\":\"%s\",\"device\":%s,\"threads\":%d,"
        "\"bytes\":%.0f,\"flops\":%.0f,\"best_s\":%.6g,\"median_s\":%.6g,\"low_s\":%.6g,\"high_s\":%.6g,"
        "\"windows\":%lld,\"calls\":%lld,\"bytes_per_s\":%.6g,\"flops_per_s\":%.6g,\"bound\":%s,"
        "\"percent\":%.4g,\"percent_best\":%.4g}\n",
        quoted(c.op).c_str(), quoted(c.model).c_str(), quoted(c.label).c_str(), name_of(c.dtype),
        quoted(device).c_str(), threads, c.bytes, c.flops, t.best, t.median, t.low, t.high,
        static_cast<long long>(t.windows), static_cast<long long>(t.calls), c.bytes / t.median,
        c.flops / t.median, quoted(bound).c_str(), percent, percent_best);
  } else {
    std::printf(
        "%-24s %-13s %-34s %-4s t%-2d %10.2f us  %7.2f GB/s %8.1f GFLOP/s  %5.1f %% (best %5.1f) of %s\n",
        c.op.c_str(), c.model.c_str(), c.label.c_str(), name_of(c.dtype), threads, t.median * 1e6,
        c.bytes / t.median / 1e9, c.flops / t.median / 1e9, percent, percent_best, bound);
  }
  std::fflush(stdout);
}

void print_case_failure(const OpCase& c, const std::string& device, int threads, const Status& status,
                        bool json) {
  if (json) {
    std::printf(
        "{\"kind\":\"failure\",\"op\":%s,\"model\":%s,\"case\":%s,\"dtype\":\"%s\",\"device\":%s,\"threads\":%"
        "d,"
        "\"message\":%s}\n",
        quoted(c.op).c_str(), quoted(c.model).c_str(), quoted(c.label).c_str(), name_of(c.dtype),
        quoted(device).c_str(), threads, quoted(status.message()).c_str());
  } else {
    std::printf("%-24s %-13s %-34s %-4s t%-2d failed: %s\n", c.op.c_str(), c.model.c_str(), c.label.c_str(),
                name_of(c.dtype), threads, status.message().c_str());
  }
  std::fflush(stdout);
}

}  // namespace longhaul::bench
