// Reads adapters from the directories that PEFT and MoE-PEFT write.
#pragma once

#include <string>
#include <string_view>

#include "core/status.h"
#include "mole/adapter.h"
#include "mole/adapter_config.h"
#include "mole/adapter_tensors.h"

namespace longhaul {

// Reads adapter_config.json and adapter_model.safetensors, or else adapter_model.bin, of `directory`: PEFT's
// LoRA (also rsLoRA and DoRA) and MoE-PEFT's DynMoLE, MixLoRA (new and old names), MoLA and LoRAMoE. The file
// must hold exactly the tensors that the configuration and the model ask for. kInvalidArgument: no such files;
// kUnsupported and kCorruptFile name the file and the key or tensor.
Result<Adapter> load_adapter(const std::string& directory, const AdaptedModel& model);

// The same of files already in memory.
Result<Adapter> read_adapter(const AdapterConfig& config, const AdapterTensors& tensors,
                             const AdaptedModel& model);

}  // namespace longhaul
