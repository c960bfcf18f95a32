#include "limits.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>

namespace longhaul::golden {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double largest(const Array& array) {
  double most = 0;
  for (double value : array.values) {
    if (std::isfinite(value)) most = std::max(most, std::fabs(value));
  }
  return most;
}

std::string element_text(std::string_view name, size_t index, double got, double reference) {
  char text[128];
  std::snprintf(text, sizeof text, "[%zu]: %.9g instead of %.9g", index, got, reference);
  return std::string(name) + text;
}

// Reads `member`, one of a limit's numbers, into `out`.
Status number(const Json::Member& member, std::string_view entry, double& out) {
  const std::optional<double> value = member.value.as_double();
  if (!value || *value < 0) {
    return corrupt_file("limits: " + quote_for_message(entry) + ": " + quote_for_message(member.name) +
                        " must be a number of at least 0");
  }
  out = *value;
  return Status();
}

Status unknown(const Json::Member& member, std::string_view entry) {
  return unsupported("limits: " + quote_for_message(entry) + " has " + quote_for_message(member.name) +
                     ", which this program does not understand");
}

Result<Limit::Margin> parse_margin(const Json& json, std::string_view entry) {
  Limit::Margin margin;
  for (const Json::Member& member : json.members()) {
    if (member.name == "abs") {
      LONGHAUL_TRY(number(member, entry, margin.abs));
    } else if (member.name == "rel_of_max") {
      LONGHAUL_TRY(number(member, entry, margin.rel_of_max));
    } else {
      return unknown(member, entry);
    }
  }
  return margin;
}

Result<Limit> parse_limit(const Json& json, std::string_view entry) {
  Limit limit;
  if (!json.is_object() || json.members().empty()) {
    return corrupt_file("limits: " + quote_for_message(entry) + " must be an object with members");
  }
  for (const Json::Member& member : json.members()) {
    if (member.name == "exact" && member.value.as_bool() == true) {
      limit.exact = true;
    } else if (member.name == "abs") {
      LONGHAUL_TRY(number(member, entry, limit.abs));
    } else if (member.name == "rel") {
      LONGHAUL_TRY(number(member, entry, limit.rel));
    } else if (member.name == "rel_of_max") {
      LONGHAUL_TRY(number(member, entry, limit.rel_of_max));
    } else if (member.name == "zero_below") {
      LONGHAUL_TRY(number(member, entry, limit.zero_below));
    } else if (member.name == "only_where_margin_above" && member.value.is_object()) {
      LONGHAUL_ASSIGN(limit.only_where_margin_above, parse_margin(member.value, entry));
    } else {
      return unknown(member, entry);
    }
  }
  return limit;
}

}  // namespace

std::string_view quantity_of(std::string_view tensor_name) {
  const size_t dot = tensor_name.rfind('.');
  if (dot != std::string_view::npos) tensor_name.remove_prefix(dot + 1);
  const size_t digits = tensor_name.find_last_not_of("0123456789");
  if (digits != std::string_view::npos && digits > 0 && digits + 1 < tensor_name.size() &&
      tensor_name[digits] == '_') {
    tensor_name = tensor_name.substr(0, digits);
  }
  return tensor_name;
}

Result<Limits> Limits::of(const Json& case_json, bool bf16) {
  Limits limits;
  limits.entries_ = case_json.find("limits");
  if (bf16 && case_json.find("limits_bf16") != nullptr) limits.entries_ = case_json.find("limits_bf16");
  if (limits.entries_ == nullptr || !limits.entries_->is_object()) {
    return corrupt_file("case.json has no object `limits`, so nothing can be judged");
  }
  return limits;
}

Result<std::optional<Limit>> Limits::find(std::string_view tensor_name) const {
  const std::string_view quantity = quantity_of(tensor_name);
  const Json* entry = entries_->find(quantity);
  if (entry == nullptr) return std::optional<Limit>();
  LONGHAUL_ASSIGN(Limit limit, parse_limit(*entry, quantity));
  return std::optional<Limit>(limit);
}

Comparison failure(std::string why) {
  return {.pass = false, .error = kInfinity, .limit = 0, .ratio = kInfinity, .where = std::move(why)};
}

Comparison compare(const Limit& limit, const Array& got, const Array& reference, std::string_view name) {
  if (got.shape != reference.shape) {
    return failure(std::string(name) + ": shape " + describe(got.shape) + " instead of " +
                   describe(reference.shape));
  }
  const double most = limit.rel_of_max > 0 ? largest(reference) : 0;
  Comparison worst;
  for (size_t i = 0; i < reference.values.size(); ++i) {
    const double x = got.values[i];
    const double y = reference.values[i];
    if (std::isnan(x) || std::isnan(y)) return failure(element_text(name, i, x, y));
    if (limit.exact) {
      if (x == y) continue;
      if (worst.pass) worst.where = element_text(name, i, x, y);
      worst.pass = false;
      worst.error += 1;
      worst.ratio = kInfinity;
      continue;
    }
    // Equal infinities differ by nothing.
    const double error = x == y ? 0 : std::fabs(x - y);
    const double tolerance = limit.abs + limit.rel * std::fabs(y) + limit.rel_of_max * most;
    const double ratio = error == 0 ? 0 : tolerance > 0 ? error / tolerance : kInfinity;
    if (i == 0 || ratio > worst.ratio) {
      worst = {.pass = error <= tolerance,
               .error = error,
               .limit = tolerance,
               .ratio = ratio,
               .where = error == 0 ? "" : element_text(name, i, x, y)};
    }
  }
  return worst;
}

Comparison compare_greedy(const Limit& limit, std::span<const int32_t> got, std::span<const int32_t> reference,
                          const Array& logits, std::string_view name) {
  if (!limit.exact) return failure(std::string(name) + ": only an exact limit makes sense for ids");
  if (!limit.only_where_margin_above || got.size() != reference.size()) {
    return compare(limit, Array::of(got), Array::of(reference), name);
  }
  const int64_t steps = static_cast<int64_t>(reference.size());
  if (logits.shape.size() != 2 || logits.shape[0] != steps || logits.shape[1] < 2) {
    return failure(std::string(name) + ": its logits have shape " + describe(logits.shape));
  }
  const double needed =
      limit.only_where_margin_above->abs + limit.only_where_margin_above->rel_of_max * largest(logits);
  for (int64_t step = 0; step < steps; ++step) {
    if (got[step] == reference[step]) continue;
    std::vector<double> row = logits.rows(step, 1).values;
    std::partial_sort(row.begin(), row.begin() + 2, row.end(), std::greater<>());
    const double margin = row[0] - row[1];
    const size_t at = static_cast<size_t>(step);
    if (margin > needed) {
      Comparison failed = failure(element_text(name, at, got[at], reference[at]));
      failed.error = 1;
      return failed;
    }
    return {.where = element_text(name, at, got[at], reference[at]) + ", a step with a margin of " +
                     std::to_string(margin) + " that need not agree"};
  }
  return {};
}

}  // namespace longhaul::golden
