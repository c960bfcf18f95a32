// How far every op of a backend is from what this machine can do: first the machine's ceilings, then the ops at
// small and real shapes, on random data, in one process.
#include <algorithm>
#include <cstdio>
#include <string>

#include "cases.h"
#include "ceilings.h"
#include "cpu/cpu_features.h"
#include "engine/devices.h"
#include "options.h"
#include "report.h"

namespace longhaul::bench {
namespace {

// The reference multiplies one by one: only its smallest shape ends in a time that anybody waits for. A GPU has
// nothing to do on shapes below a billion parameters.
std::vector<ModelShape> chosen_shapes(const Options& options) {
  std::vector<ModelShape> shapes = model_shapes();
  if (!options.models.empty()) {
    std::erase_if(shapes, [&](const ModelShape& shape) {
      return std::find(options.models.begin(), options.models.end(), shape.name) == options.models.end();
    });
  } else if (options.device == "reference") {
    shapes.resize(1);
  } else if (options.gpu()) {
    std::erase_if(shapes,
                  [&](const ModelShape& shape) { return shape.hidden < (options.quick ? 4096 : 2048); });
  } else {
    std::erase_if(shapes, [](const ModelShape& shape) { return shape.large; });
    if (options.quick) shapes.resize(2);
  }
  return shapes;
}

Cases chosen_cases(const Options& options, const std::vector<ModelShape>& shapes, const Backend& backend) {
  Cases cases;
  for (const ModelShape& shape : shapes) {
    for (DType dtype : {DType::kBf16, DType::kF32}) {
      // One shape in both: the large ones are used in bf16.
      if (dtype == DType::kF32 && (options.quick || shape.hidden > 576)) continue;
      const CaseContext context{shape, dtype, backend.activation_dtype(dtype), options.gpu(), backend.ops()};
      for (const auto* entries : {&dense_entries(), &cache_entries(), &eviction_entries(), &sharing_entries(),
                                  &expert_entries(), &expert_gradient_entries(), &parallel_entries()}) {
        for (const OpEntry& entry : *entries) entry.add(context, cases);
      }
    }
  }
  std::erase_if(cases, [&](const OpCase& c) {
    if (options.quick && !c.quick && options.filter.empty()) return true;
    const std::string name = c.op + " " + c.model + " " + c.label + " " + name_of(c.dtype);
    return name.find(options.filter) == std::string::npos;
  });
  return cases;
}

Result<Timing> measure_case(const OpCase& c, Backend& backend, bool gpu, const Limits& limits) {
  LONGHAUL_ASSIGN(std::unique_ptr<Stream> stream, backend.make_stream());
  Memory memory(backend, *stream, /*seed=*/1);
  LONGHAUL_ASSIGN(Operation operation, c.make(memory));
  return measure(operation, *stream, gpu, limits);
}

// True when every case could be measured.
Result<bool> bench(const Options& options) {
  const bool reference = options.device == "reference";
  std::vector<int> threads = options.threads;
  if (reference || options.gpu()) {
    threads = {1};
  } else if (threads.empty()) {
    threads = {1};
    if (cpu::available_cores() > 1) threads.push_back(cpu::available_cores());
  }
  LONGHAUL_ASSIGN(cpu::InstructionSet isa, cpu::choose_instruction_set());
  const std::string instructions = reference ? "generic" : options.gpu() ? "tensor-cores" : isa.name;
  const std::vector<ModelShape> shapes = chosen_shapes(options);
  bool complete = true;
  for (int count : threads) {
    LONGHAUL_ASSIGN(std::unique_ptr<Backend> backend, open_device(options.device, count));
    const Cases cases = chosen_cases(options, shapes, *backend);
    if (options.list) {
      for (const OpCase& c : cases)
        std::printf("%s %s %s %s\n", c.op.c_str(), c.model.c_str(), c.label.c_str(), name_of(c.dtype));
      return true;
    }
    if (cases.empty()) return invalid_argument("no case has '" + options.filter + "' in its name");
    CeilingLimits ceiling_limits;
    Limits limits;
    if (options.quick) {
      ceiling_limits.seconds = 0.15;
      limits.seconds = 0.05;
      limits.least_windows = 3;
    }
    LONGHAUL_ASSIGN(std::vector<Ceiling> ceilings, options.gpu()
                                                       ? measure_gpu_ceilings(*backend, ceiling_limits)
                                                       : measure_ceilings(*backend, count, ceiling_limits));
    for (const Ceiling& ceiling : ceilings) print_ceiling(ceiling, options.json);
    for (const OpCase& c : cases) {
      Result<Timing> timing = measure_case(c, *backend, options.gpu(), limits);
      if (timing.ok()) {
        print_case(c, options.device, count, timing.value(), judge(c, ceilings, instructions, count),
                   options.json);
      } else {
        print_case_failure(c, options.device, count, timing.status(), options.json);
        complete = false;
      }
    }
  }
  return complete;
}

}  // namespace
}  // namespace longhaul::bench

int main(int count, char** arguments) {
  const auto options = longhaul::bench::parse_options(count, arguments);
  if (!options.ok()) {
    std::fprintf(stderr, "bench_ops: %s\n%s", options.status().message().c_str(), longhaul::bench::kUsage);
    return 2;
  }
  const auto complete = longhaul::bench::bench(options.value());
  if (!complete.ok()) {
    std::fprintf(stderr, "bench_ops: %s\n", complete.status().message().c_str());
    return 1;
  }
  return complete.value() ? 0 : 1;
}
