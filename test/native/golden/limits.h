// The tolerances of a case, read from its `limits`. All knowledge of what passes is here (the fixtures' README,
// "limits").
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "array.h"
#include "files/json.h"

namespace longhaul::golden {

// abs + rel * |ref| + rel_of_max * max |ref|, or equality.
struct Limit {
  struct Margin {
    double abs = 0;
    double rel_of_max = 0;
  };
  bool exact = false;
  double abs = 0;
  double rel = 0;
  double rel_of_max = 0;
  double zero_below = 0;  // of `support`
  std::optional<Margin> only_where_margin_above;
};

// The key under which `limits` holds a tensor: its last dot-separated part without a trailing _<number>.
std::string_view quantity_of(std::string_view tensor_name);

class Limits {
 public:
  // With `bf16` the entries of `limits_bf16`, where there are any, replace those of `limits`.
  static Result<Limits> of(const Json& case_json, bool bf16);

  // Nothing: the tensor is an input or a diagnostic. kUnsupported: an entry of a form this program does not
  // know, so that nothing passes because it was not understood.
  Result<std::optional<Limit>> find(std::string_view tensor_name) const;

 private:
  const Json* entries_ = nullptr;
};

struct Comparison {
  bool pass = true;
  double error = 0;   // the worst element's; where equality is asked for: how many elements differ
  double limit = 0;   // of that element
  double ratio = 0;   // error / limit, to find the worst of several
  std::string where;  // the worst element, where it is not right to the last bit
};

Comparison compare(const Limit& limit, const Array& got, const Array& reference, std::string_view name);

// Greedy ids of one run that was fed its own ids. `logits` [steps, vocab] are the reference's: a step whose
// margin between the best two is not above the limit's need not agree, and ends the comparison.
Comparison compare_greedy(const Limit& limit, std::span<const int32_t> got, std::span<const int32_t> reference,
                          const Array& logits, std::string_view name);

// A comparison that fails for a reason of its own.
Comparison failure(std::string why);

}  // namespace longhaul::golden
