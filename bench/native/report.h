// What bench_ops prints: a line for people or a line of JSON for each ceiling and case.
#pragma once

#include <string>
#include <vector>

#include "cases.h"
#include "ceilings.h"

namespace longhaul::bench {

// The ceiling that binds a case, and how close it came.
struct Verdict {
  const Ceiling* read = nullptr;     // of where the case's data lie
  const Ceiling* compute = nullptr;  // of the instructions that it is made of
  const Ceiling* bound = nullptr;    // the one of the two that takes longer
  double least_seconds = 0;          // bytes and flops at that ceiling
};

// `isa` is the instruction set that the backend chose.
Verdict judge(const OpCase& c, const std::vector<Ceiling>& ceilings, const std::string& isa, int threads);

void print_ceiling(const Ceiling& ceiling, bool json);
void print_case(const OpCase& c, const std::string& device, int threads, const Timing& timing,
                const Verdict& verdict, bool json);
void print_case_failure(const OpCase& c, const std::string& device, int threads, const Status& status,
                        bool json);

}  // namespace longhaul::bench
