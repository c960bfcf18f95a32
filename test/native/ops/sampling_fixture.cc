#include "ops/sampling_fixture.h"

#include <cstring>
#include <fstream>
#include <iterator>

namespace longhaul::testing {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The text behind `"name":` from `begin` on, up to `end`; empty when there is none.
std::string value_of(const std::string& json, const std::string& name, size_t begin = 0,
                     size_t end = std::string::npos) {
  const std::string key = '"' + name + '"';
  const size_t at = json.find(key, begin);
  if (at == std::string::npos || at >= end) return "";
  return json.substr(json.find(':', at) + 1, 4096);
}

// "[1, 2, 3]..."
std::vector<int32_t> integers_of(const std::string& text) {
  std::vector<int32_t> out;
  size_t at = text.find('[');
  const size_t end = text.find(']');
  while (at != std::string::npos && at < end) {
    out.push_back(std::stoi(text.substr(at + 1)));
    at = text.find(',', at + 1);
  }
  return out;
}

Array tensor_of(const std::string& file, const std::string& name) {
  uint64_t header_size = 0;
  if (file.size() < sizeof(header_size)) return {};
  std::memcpy(&header_size, file.data(), sizeof(header_size));
  const std::string header = file.substr(sizeof(header_size), header_size);
  const std::string entry = value_of(header, name);
  if (entry.empty()) return {};
  std::vector<int64_t> shape;
  for (int32_t extent : integers_of(value_of(entry, "shape"))) shape.push_back(extent);
  const std::vector<int32_t> offsets = integers_of(value_of(entry, "data_offsets"));
  const bool is_float = value_of(entry, "dtype").find("F32") < 3;
  Array array(is_float ? DType::kF32 : DType::kI32, shape);
  std::memcpy(array.bytes.data(),
              file.data() + sizeof(header_size) + header_size + static_cast<size_t>(offsets[0]),
              array.bytes.size());
  return array;
}

}  // namespace

SamplingFixture read_sampling_fixture(const std::string& folder) {
  const std::string json = read_file(folder + "/case.json");
  const std::string data = read_file(folder + "/data.safetensors");
  SamplingFixture fixture;
  fixture.logits = tensor_of(data, "logits");
  fixture.previous_ids = tensor_of(data, "previous_ids");
  fixture.tie_logits = tensor_of(data, "tie_logits");
  fixture.top_k_tie_logits = tensor_of(data, "topk_tie_logits");
  fixture.top_k_tie_probabilities = tensor_of(data, "topk_tie_probs");
  fixture.greedy_ids = integers_of(value_of(json, "expected_ids"));
  for (size_t at = json.find("\"params\""); at != std::string::npos; at = json.find("\"params\"", at + 1)) {
    const size_t end = json.find('}', at);
    const auto number = [&](const char* name, double otherwise) {
      const std::string text = value_of(json, name, at, end);
      return text.empty() ? otherwise : std::stod(text);
    };
    SamplingFixture::Case c;
    c.params.temperature = static_cast<float>(number("temperature", 1));
    c.params.top_k = static_cast<int32_t>(number("top_k", 0));
    c.params.top_p = static_cast<float>(number("top_p", 1));
    c.params.min_p = static_cast<float>(number("min_p", 0));
    c.params.repetition_penalty = static_cast<float>(number("repetition_penalty", 1));
    c.support = integers_of(value_of(json, "support", end));
    c.probabilities = tensor_of(data, "probs_" + std::to_string(fixture.cases.size()));
    fixture.cases.push_back(c);
  }
  return fixture;
}

}  // namespace longhaul::testing
