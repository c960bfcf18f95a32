// One small fixed run of a model, for counting instructions: valgrind --tool=callgrind counts the same however
// busy the machine is. The three functions with plain names are what the counts are read for.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "engine/sampler.h"
#include "engine/sequence.h"

namespace longhaul::bench {
namespace {

constexpr int32_t kPrefill = 64;
constexpr int32_t kDecode = 32;

struct Run {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Transformer> model;
  std::unique_ptr<PagePool> pool;
  std::unique_ptr<Sampler> sampler;
  std::unique_ptr<Sequence> full, bounded;
  std::vector<int32_t> question;
  std::vector<int32_t> answer;
};

Result<Run> prepare(const char* directory) {
  Run run;
  LONGHAUL_ASSIGN(run.backend, make_cpu_backend(1));
  LONGHAUL_ASSIGN(run.model, Transformer::load(*run.backend, directory, [](int64_t, int64_t) { return true; }));
  LONGHAUL_ASSIGN(run.pool, PagePool::create(*run.backend, run.model->kv_geometry(), int64_t{16} << 20));
  const ModelConfig& config = run.model->config();
  LONGHAUL_ASSIGN(run.sampler, Sampler::create(*run.backend, run.model->stream(), config.vocab_size));
  MemoryPolicy policy;
  policy.block = kPrefill;
  LONGHAUL_ASSIGN(run.full, Sequence::create(*run.model, *run.pool, policy));
  policy.kind = PolicyKind::kKeyDiff;
  policy.budgets.assign(static_cast<size_t>(config.layers), kPrefill / 2);
  LONGHAUL_ASSIGN(run.bounded, Sequence::create(*run.model, *run.pool, policy));
  for (int32_t i = 0; i < kPrefill; ++i)
    run.question.push_back(static_cast<int32_t>((i * 7919 + 13) % config.vocab_size));
  LONGHAUL_TRY(run.full->admit(kPrefill + kDecode));
  return run;
}

}  // namespace

extern "C" __attribute__((noinline)) Status fixed_prefill(Run& run) {
  return run.full->extend(run.question);
}

extern "C" __attribute__((noinline)) Status fixed_decode(Run& run) {
  for (int32_t i = 0; i < kDecode; ++i) {
    LONGHAUL_ASSIGN(Tensor logits, run.model->logits(run.full->last_row(), 1));
    const DrawRow row{.params = {.temperature = 0}};
    LONGHAUL_TRY(run.sampler->draw(logits, std::span(&row, 1)));
    LONGHAUL_TRY(run.full->settle());
    int32_t token = run.sampler->drawn(0);
    run.answer.push_back(token);
    LONGHAUL_TRY(run.full->extend(std::span(&token, 1)));
  }
  return Status();
}

// Two blocks into a cache that keeps half of one.
extern "C" __attribute__((noinline)) Status fixed_evict(Run& run) {
  LONGHAUL_TRY(run.bounded->prefill(run.question));
  return run.bounded->prefill(run.question);
}

Status run_fixed(const char* directory) {
  LONGHAUL_ASSIGN(Run run, prepare(directory));
  LONGHAUL_TRY(fixed_prefill(run));
  LONGHAUL_TRY(fixed_decode(run));
  LONGHAUL_TRY(fixed_evict(run));
  std::printf("%s:", run.backend->description().c_str());
  for (int32_t token : run.answer) std::printf(" %d", token);
  std::printf("\n");
  return Status();
}

}  // namespace longhaul::bench

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "bench_fixed MODEL_DIRECTORY\n");
    return 2;
  }
  const longhaul::Status status = longhaul::bench::run_fixed(arguments[1]);
  if (!status.ok()) std::fprintf(stderr, "bench_fixed: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
