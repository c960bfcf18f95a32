// What the program prints: a line for each quantity, for people or (--json) for programs, and the counts.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "golden_file.h"
#include "limits.h"

namespace longhaul::golden {

class Report {
 public:
  explicit Report(bool json) : json_(json) {}

  void quantity(const std::string& name, const std::string& kind, const std::string& quantity,
                const Comparison& comparison);
  // `quantity` empty: the whole case.
  void skipped(const std::string& name, const std::string& kind, const std::string& quantity,
               const std::string& why);
  void summary() const;

  int passed() const { return passed_; }
  int failed() const { return failed_; }

 private:
  void print(const std::string& line) const;

  bool json_;
  int passed_ = 0;
  int failed_ = 0;
  int skipped_ = 0;
};

// The comparisons of one case: of tensors that share a limit, the worst is told. Lines are printed when it
// goes, so that a case which breaks off tells what was compared until then.
class CaseReport {
 public:
  CaseReport(Report& report, std::string name, std::string kind, Limits limits)
      : report_(report), name_(std::move(name)), kind_(std::move(kind)), limits_(limits) {}
  ~CaseReport();
  CaseReport(const CaseReport&) = delete;
  CaseReport& operator=(const CaseReport&) = delete;

  const Limits& limits() const { return limits_; }

  // Compares `got` with tensor `name` of `file`, unless that has no limit. `group` ("short.") goes before the
  // quantity.
  Status compare(const GoldenFile& file, const std::string& group, const std::string& name, const Array& got);
  // Adds a comparison made elsewhere; `name` is its tensor in `file`.
  void add(const std::string& group, const std::string& name, Comparison comparison);
  void skip(const std::string& quantity, const std::string& why);

  // Fails every tensor of `file` that has a limit and was not compared under `group`: nothing stored may be
  // forgotten silently.
  Status require_all(const GoldenFile& file, const std::string& group);

 private:
  Report& report_;
  std::string name_;
  std::string kind_;
  Limits limits_;
  std::vector<std::pair<std::string, Comparison>>
      worst_;  // by quantity, in the order of their first comparison
  std::vector<std::pair<std::string, std::string>> skipped_;
  std::set<std::string> compared_;  // group + tensor name
};

}  // namespace longhaul::golden
