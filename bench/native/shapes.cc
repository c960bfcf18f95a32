#include "shapes.h"

namespace longhaul::bench {

const std::vector<ModelShape>& model_shapes() {
  static const std::vector<ModelShape> shapes = {
      {"stories260K", 64, 172, 8, 4, 8, 512, false, false},
      {"SmolLM2-135M", 576, 1536, 9, 3, 64, 49152, false, false},
      {"Qwen2.5-0.5B", 896, 4864, 14, 2, 64, 151936, true, false},
      {"Llama-3.2-1B", 2048, 8192, 32, 8, 64, 128256, false, false},
      {"Llama-3.1-8B", 4096, 14336, 32, 8, 128, 128256, false, true},
  };
  return shapes;
}

}  // namespace longhaul::bench
