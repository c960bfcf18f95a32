#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace longhaul::golden {
namespace {

// JSON has no infinity: an error without a number (another shape, NaN) is null.
std::string json_number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

std::string pad(std::string text, size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text + ' ';
}

std::string members(const std::string& name, const std::string& kind, const std::string& quantity) {
  std::string text = "{\"case\":" + json_quote(name) + ",\"kind\":" + json_quote(kind);
  if (!quantity.empty()) text += ",\"quantity\":" + json_quote(quantity);
  return text;
}

}  // namespace

// Whoever reads the lines through a pipe sees each as soon as it is known.
void Report::print(const std::string& line) const {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void Report::quantity(const std::string& name, const std::string& kind, const std::string& quantity,
                      const Comparison& comparison) {
  ++(comparison.pass ? passed_ : failed_);
  if (json_) {
    std::string line = members(name, kind, quantity) + ",\"error\":" + json_number(comparison.error) +
                       ",\"limit\":" + json_number(comparison.limit) +
                       ",\"pass\":" + (comparison.pass ? "true" : "false");
    if (!comparison.where.empty()) line += ",\"where\":" + json_quote(comparison.where);
    print(line + "}");
    return;
  }
  char columns[64];
  std::snprintf(columns, sizeof columns, "error %-10.3g limit %-10.3g ", comparison.error, comparison.limit);
  print(pad(name, 34) + pad(quantity, 28) + columns + (comparison.pass ? "pass" : "FAIL  " + comparison.where));
}

void Report::skipped(const std::string& name, const std::string& kind, const std::string& quantity,
                     const std::string& why) {
  ++skipped_;
  if (json_) {
    print(members(name, kind, quantity) + ",\"skipped\":" + json_quote(why) + "}");
    return;
  }
  print(pad(name, 34) + pad(quantity, 28) + "skipped: " + why);
}

void Report::summary() const {
  const std::string passed = std::to_string(passed_);
  const std::string failed = std::to_string(failed_);
  const std::string skipped = std::to_string(skipped_);
  print(json_ ? "{\"passed\":" + passed + ",\"failed\":" + failed + ",\"skipped\":" + skipped + "}"
              : passed + " passed, " + failed + " failed, " + skipped + " skipped");
}

Status CaseReport::compare(const GoldenFile& file, const std::string& group, const std::string& name,
                           const Array& got) {
  LONGHAUL_ASSIGN(const std::optional<Limit> limit, limits_.find(name));
  if (!limit) return Status();
  LONGHAUL_ASSIGN(const Array reference, file.read(name));
  add(group, name, golden::compare(*limit, got, reference, name));
  return Status();
}

void CaseReport::add(const std::string& group, const std::string& name, Comparison comparison) {
  compared_.insert(group + name);
  const std::string quantity = group + std::string(quantity_of(name));
  auto at =
      std::find_if(worst_.begin(), worst_.end(), [&](const auto& entry) { return entry.first == quantity; });
  if (at == worst_.end()) {
    worst_.emplace_back(quantity, std::move(comparison));
    return;
  }
  const Comparison& old = at->second;
  if (old.pass ? !comparison.pass || comparison.ratio > old.ratio
               : !comparison.pass && comparison.ratio > old.ratio) {
    at->second = std::move(comparison);
  }
}

void CaseReport::skip(const std::string& quantity, const std::string& why) {
  skipped_.emplace_back(quantity, why);
}

Status CaseReport::require_all(const GoldenFile& file, const std::string& group) {
  for (const std::string& name : file.names()) {
    if (compared_.contains(group + name)) continue;
    LONGHAUL_ASSIGN(const std::optional<Limit> limit, limits_.find(name));
    if (limit) add(group, name, failure(name + " is stored and has a limit, but nothing was compared with it"));
  }
  return Status();
}

CaseReport::~CaseReport() {
  for (const auto& [quantity, comparison] : worst_) report_.quantity(name_, kind_, quantity, comparison);
  for (const auto& [quantity, why] : skipped_) report_.skipped(name_, kind_, quantity, why);
}

}  // namespace longhaul::golden
