// Kind `attention`: packed sequences through the cache on one rank, and over several where ranks can be
// threads.
#include <cmath>

#include "attention_ranks.h"
#include "core/arena.h"
#include "kinds.h"

namespace longhaul::golden {
namespace {

struct Shape {
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t dim = 0;
};

Result<Shape> read_shape(const Case& attention) {
  Shape shape;
  LONGHAUL_ASSIGN(shape.tokens, attention.integer("T"));
  LONGHAUL_ASSIGN(shape.heads, attention.integer("H"));
  LONGHAUL_ASSIGN(shape.kv_heads, attention.integer("Hkv"));
  LONGHAUL_ASSIGN(shape.dim, attention.integer("D"));
  LONGHAUL_ASSIGN(const std::string scale, attention.text("scale"));
  const Json* const causal = attention.json.find("causal");
  if (causal == nullptr || causal->as_bool() != true) return unsupported("attention that is not causal");
  if (scale != "1/sqrt(D)") return unsupported("attention with scale " + quote_for_message(scale));
  if (shape.tokens < 1 || shape.kv_heads < 1 || shape.dim < 1 || shape.heads % shape.kv_heads != 0) {
    return corrupt_file("T, H, Hkv or D is zero, or Hkv does not divide H");
  }
  return shape;
}

// First token of each packed sequence, then the end.
Result<std::vector<int32_t>> read_bounds(const GoldenFile& file, int64_t tokens) {
  std::vector<int32_t> bounds{0, static_cast<int32_t>(tokens)};
  if (file.has("cu_seqlens")) {
    LONGHAUL_ASSIGN(bounds, file.read_ids("cu_seqlens", tokens + 1));
  }
  bool ascending = bounds.size() >= 2 && bounds.front() == 0 && bounds.back() == tokens;
  for (size_t i = 1; i < bounds.size(); ++i) ascending = ascending && bounds[i] > bounds[i - 1];
  if (!ascending) return corrupt_file("cu_seqlens does not cut [0, T) into sequences");
  return bounds;
}

Result<std::vector<float>> read_floats(const GoldenFile& file, const char* name, std::vector<int64_t> shape) {
  LONGHAUL_ASSIGN(const Array array, file.read(name));
  if (array.shape != shape) {
    return corrupt_file(std::string(name) + " has shape " + describe(array.shape) + ", not " + describe(shape));
  }
  return std::vector<float>(array.values.begin(), array.values.end());
}

Status upload(Backend& backend, Stream& stream, const Tensor& target, const std::vector<float>& values) {
  return backend.upload(stream, target.data, values.data(), values.size() * sizeof(float));
}

// [tokens, heads] to the stored [heads, tokens]
Array transposed(const Array& array) {
  Array result = Array::of({array.shape[1], array.shape[0]}, array.values);
  for (int64_t row = 0; row < array.shape[0]; ++row) {
    for (int64_t column = 0; column < array.shape[1]; ++column) {
      result.values[static_cast<size_t>(column * array.shape[0] + row)] =
          array.values[static_cast<size_t>(row * array.shape[1] + column)];
    }
  }
  return result;
}

}  // namespace

Status run_attention(Context& context, const Case& attention) {
  Backend& backend = context.backend;
  LONGHAUL_ASSIGN(const Shape shape, read_shape(attention));
  LONGHAUL_ASSIGN(const Limits limits, Limits::of(attention.json, false));
  LONGHAUL_ASSIGN(const GoldenFile file, GoldenFile::open(attention.file("data.safetensors")));
  LONGHAUL_ASSIGN(const std::vector<int32_t> bounds, read_bounds(file, shape.tokens));
  // Read before anything is allocated: a file cannot lie about the size of its arrays, case.json can.
  LONGHAUL_ASSIGN(const std::vector<float> q, read_floats(file, "q", {shape.tokens, shape.heads, shape.dim}));
  LONGHAUL_ASSIGN(const std::vector<float> k,
                  read_floats(file, "k", {shape.tokens, shape.kv_heads, shape.dim}));
  LONGHAUL_ASSIGN(const std::vector<float> v,
                  read_floats(file, "v", {shape.tokens, shape.kv_heads, shape.dim}));

  const KvGeometry geometry{.layers = 1,
                            .kv_heads = static_cast<int32_t>(shape.kv_heads),
                            .head_dim = static_cast<int32_t>(shape.dim),
                            .dtype = DType::kF32};
  const int64_t sequences = static_cast<int64_t>(bounds.size()) - 1;
  const int64_t pages = shape.kv_heads * (pages_for(shape.tokens) + sequences);
  LONGHAUL_ASSIGN(const std::unique_ptr<PagePool> pool,
                  PagePool::create(backend, geometry, pages * geometry.page_bytes()));
  LONGHAUL_ASSIGN(const std::unique_ptr<Stream> stream, backend.make_stream());

  std::vector<std::unique_ptr<SequenceCache>> caches;
  std::vector<CacheView> views;
  std::vector<int32_t> positions;
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    const int32_t rows = bounds[i + 1] - bounds[i];
    const int64_t needed = shape.kv_heads * pages_for(rows);
    LONGHAUL_ASSIGN(std::unique_ptr<SequenceCache> cache,
                    SequenceCache::create(backend, *stream, *pool, rows, needed, needed));
    views.push_back(cache->view(0, bounds[i], rows));
    caches.push_back(std::move(cache));
    for (int32_t row = 0; row < rows; ++row) positions.push_back(row);
  }

  AppendArgs append{.pages = pool->arrays(), .sequences = sequences};
  AttentionArgs args{.pages = pool->arrays(),
                     .sequences = sequences,
                     .kv_heads = geometry.kv_heads,
                     .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.dim))),
                     .max_length = static_cast<int32_t>(shape.tokens)};
  Tensor view_bytes;
  Workspace workspace;
  const auto lay_out = [&](Arena arena) {
    args.q = arena.take(DType::kF32, {shape.tokens, shape.heads, shape.dim});
    args.out = arena.take(DType::kF32, {shape.tokens, shape.heads, shape.dim});
    args.lse = arena.take(DType::kF32, {shape.tokens, shape.heads});
    append.k = arena.take(DType::kF32, {shape.tokens, shape.kv_heads, shape.dim});
    append.v = arena.take(DType::kF32, {shape.tokens, shape.kv_heads, shape.dim});
    append.positions = arena.take(DType::kI32, {shape.tokens});
    view_bytes = arena.take(DType::kU8, {static_cast<int64_t>(views.size() * sizeof(CacheView))});
    const size_t bytes = backend.ops().attention_workspace(args);
    workspace = {arena.take_bytes(bytes), bytes};
    return arena.used();
  };
  LONGHAUL_ASSIGN(const Buffer buffer, backend.allocate(lay_out(Arena()), MemoryUse::kWorkspace));
  lay_out(Arena(buffer));
  append.views = args.views = view_bytes.as<const CacheView>();

  LONGHAUL_TRY(upload(backend, *stream, args.q, q));
  LONGHAUL_TRY(upload(backend, *stream, append.k, k));
  LONGHAUL_TRY(upload(backend, *stream, append.v, v));
  LONGHAUL_TRY(
      backend.upload(*stream, append.positions.data, positions.data(), positions.size() * sizeof(int32_t)));
  LONGHAUL_TRY(backend.upload(*stream, view_bytes.data, views.data(), views.size() * sizeof(CacheView)));
  LONGHAUL_TRY(run(backend, *stream, append));
  LONGHAUL_TRY(run(backend, *stream, args, workspace));

  CaseReport report(context.report, attention.name, attention.kind, limits);
  LONGHAUL_ASSIGN(const Array out, download(backend, *stream, args.out));
  LONGHAUL_TRY(report.compare(file, "", "out", out));
  LONGHAUL_ASSIGN(const Array lse, download(backend, *stream, args.lse));
  LONGHAUL_TRY(report.compare(file, "", "lse", transposed(lse)));
  LONGHAUL_TRY(report.require_all(file, ""));
  if (backend.is_host_memory()) {
    const SequenceShape ranks{.heads = static_cast<int32_t>(shape.heads),
                              .kv_heads = static_cast<int32_t>(shape.kv_heads),
                              .dim = static_cast<int32_t>(shape.dim),
                              .scale = args.scale};
    return compare_ranks(backend, {ranks, bounds, q, k, v}, report);
  }
  for (const Json::Member& entry : attention.json.find("limits")->members()) {
    if (entry.name.ends_with("_vs_single_rank")) {
      report.skip(entry.name, "ranks are threads here, and threads of one process do not share a device");
    }
  }
  return Status();
}

}  // namespace longhaul::golden
