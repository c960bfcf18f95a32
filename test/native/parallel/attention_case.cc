#include "attention_case.h"

#include <cmath>
#include <random>

#include "files/json.h"
#include "files/safetensors.h"

namespace longhaul::testing {
namespace {

template <class T>
Result<std::vector<T>> read_tensor(const SafetensorsFile& file, const char* name) {
  LONGHAUL_ASSIGN(const SourceTensor source, file.load(name));
  const T* const data = source.tensor.as<const T>();
  return std::vector<T>(data, data + source.tensor.elements());
}

Result<double> number(const Json& json, std::initializer_list<const char*> path, double fallback) {
  const Json* at = &json;
  for (const char* key : path) {
    at = at->find(key);
    if (at == nullptr) return fallback;
  }
  const auto value = at->as_double();
  if (!value) return corrupt_file("case.json: no number where one belongs");
  return *value;
}

float rounded(float x, DType dtype) {
  return dtype == DType::kBf16 ? to_f32(to_bf16(x)) : x;
}

void fill_attention(AttentionCase& c) {
  const int64_t group = c.heads / c.kv_heads;
  c.out.assign(c.q.size(), 0);
  c.lse.assign(static_cast<size_t>(c.rows() * c.heads), 0);
  std::vector<double> scores;
  for (size_t s = 0; s + 1 < c.bounds.size(); ++s) {
    for (int64_t row = c.bounds[s]; row < c.bounds[s + 1]; ++row) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const float* const q = c.q.data() + (row * c.heads + h) * c.dim;
        double* const out = c.out.data() + (row * c.heads + h) * c.dim;
        const auto place = [&](int64_t key) { return (key * c.kv_heads + h / group) * c.dim; };
        scores.clear();
        double total = 0;
        for (int64_t key = c.bounds[s]; key <= row; ++key) {
          double dot = 0;
          for (int64_t d = 0; d < c.dim; ++d) dot += double{q[d]} * double{c.k.data()[place(key) + d]};
          scores.push_back(std::exp(dot * double{c.scale()}));
          total += scores.back();
        }
        for (int64_t key = c.bounds[s]; key <= row; ++key) {
          const double weight = scores[static_cast<size_t>(key - c.bounds[s])] / total;
          for (int64_t d = 0; d < c.dim; ++d) out[d] += weight * double{c.v.data()[place(key) + d]};
        }
        c.lse[static_cast<size_t>(row * c.heads + h)] = std::log(total);
      }
    }
  }
}

}  // namespace

const std::vector<std::string> kFixtures = {"gqa_12_3", "gqa_14_7", "gqa_8_2", "mha_8_8_peaky", "varlen_8_2"};

float AttentionCase::scale() const {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
}

Result<AttentionCase> read_case(const std::string& name) {
  const std::string directory = std::string(LONGHAUL_FIXTURES) + "/parallel/attention_" + name + "/";
  LONGHAUL_ASSIGN(const Json json, read_json_file(directory + "case.json", 1 << 20));
  AttentionCase c;
  c.name = name;
  const auto integer = [&](const char* key) { return number(json, {key}, 0); };
  LONGHAUL_ASSIGN(const double rows, integer("T"));
  LONGHAUL_ASSIGN(const double heads, integer("H"));
  LONGHAUL_ASSIGN(const double kv_heads, integer("Hkv"));
  LONGHAUL_ASSIGN(const double dim, integer("D"));
  c.heads = static_cast<int64_t>(heads);
  c.kv_heads = static_cast<int64_t>(kv_heads);
  c.dim = static_cast<int64_t>(dim);
  LONGHAUL_ASSIGN(c.out_abs, number(json, {"limits", "out", "abs"}, 0));
  LONGHAUL_ASSIGN(c.out_rel, number(json, {"limits", "out", "rel"}, 0));
  LONGHAUL_ASSIGN(c.lse_abs, number(json, {"limits", "lse", "abs"}, 0));
  LONGHAUL_ASSIGN(c.lse_rel, number(json, {"limits", "lse", "rel"}, 0));

  LONGHAUL_ASSIGN(const SafetensorsFile file, SafetensorsFile::open(directory + "data.safetensors"));
  LONGHAUL_ASSIGN(c.q, read_tensor<float>(file, "q"));
  LONGHAUL_ASSIGN(c.k, read_tensor<float>(file, "k"));
  LONGHAUL_ASSIGN(c.v, read_tensor<float>(file, "v"));
  LONGHAUL_ASSIGN(const std::vector<float> out, read_tensor<float>(file, "out"));
  LONGHAUL_ASSIGN(const std::vector<float> lse, read_tensor<float>(file, "lse"));
  c.bounds = {0, static_cast<int32_t>(rows)};
  if (file.find("cu_seqlens") != nullptr) {
    LONGHAUL_ASSIGN(c.bounds, read_tensor<int32_t>(file, "cu_seqlens"));
  }
  c.out.assign(out.begin(), out.end());
  for (int64_t row = 0; row < c.rows(); ++row) {  // stored [heads, rows]
    for (int64_t h = 0; h < c.heads; ++h) c.lse.push_back(lse[static_cast<size_t>(h * c.rows() + row)]);
  }
  return c;
}

AttentionCase make_case(std::vector<int32_t> lengths, int64_t heads, int64_t kv_heads, int64_t dim,
                        DType dtype) {
  AttentionCase c;
  c.name = "made";
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.dim = dim;
  c.bounds = {0};
  for (int32_t length : lengths) c.bounds.push_back(c.bounds.back() + length);
  std::mt19937_64 random(static_cast<uint64_t>(c.rows() * 31 + heads));
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>& x, int64_t n) {
    for (int64_t i = 0; i < c.rows() * n * dim; ++i) x.push_back(rounded(normal(random), dtype));
  };
  fill(c.q, heads);
  fill(c.k, kv_heads);
  fill(c.v, kv_heads);
  fill_attention(c);
  return c;
}

}  // namespace longhaul::testing
