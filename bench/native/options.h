// The command line of bench_ops.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"

namespace longhaul::bench {

struct Options {
  std::string device = "cpu";
  std::vector<int> threads;         // empty: 1 and all
  std::vector<std::string> models;  // empty: all, or the two smallest with `quick`
  std::string filter;               // part of "op model label dtype"
  bool quick = false;
  bool json = false;
  bool list = false;

  bool gpu() const { return device.starts_with("cuda"); }
};

constexpr const char* kUsage =
    "bench_ops [--device cpu|reference|cuda|cuda:N] [--threads 1,2] [--models NAME,...] [--filter TEXT] "
    "[--quick] [--list] "
    "[--json]\n";

Result<Options> parse_options(int count, char** arguments);

}  // namespace longhaul::bench
